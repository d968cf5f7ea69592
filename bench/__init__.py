"""Every figure of this project: `make bench [ONLY=name]` prints one JSON object a line."""
