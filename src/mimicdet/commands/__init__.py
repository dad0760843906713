"""Has one file a command: a dataclass of its options, and `run`."""
