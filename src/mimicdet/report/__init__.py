"""Draws pictures and makes tables of what was measured and found."""
