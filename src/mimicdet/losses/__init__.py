"""Losses as pure functions: sums over boxes; whoever calls divides by the number over all processes."""
