"""The laboratory's commands stand here, one file each."""
