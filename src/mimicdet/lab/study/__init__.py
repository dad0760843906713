"""Makes experiments: a list of runs in a file, their results in a table."""
