"""The foundation models, one file each, and their weights."""
