"""The original's way through its own weights, a stage in memory at a time."""
