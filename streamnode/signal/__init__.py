"""The signal path between source and model: pure, synchronous, the same for live streams and files."""
