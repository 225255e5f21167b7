"""Running a model: device, precision, the one inference thread."""
