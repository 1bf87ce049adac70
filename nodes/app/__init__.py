"""The top layer: the command line and the commands behind it, the only place that joins slices."""
