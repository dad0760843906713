"""The one-stage detectors that MimicDet is compared with, each with network, assignment and losses in one file."""
