"""Measuring how fast detectors run: in alternation, with the spread, stage by stage."""
