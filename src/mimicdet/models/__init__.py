"""Detectors: backbone, pyramid, heads, dense output and its decoding. Nothing here knows targets or losses."""
