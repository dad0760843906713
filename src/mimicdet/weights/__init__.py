"""Reads and writes weights."""
