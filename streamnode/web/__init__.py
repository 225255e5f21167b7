"""The node's HTTP face: health, metrics and the status page."""
