"""A run on disk: what surrounds the pure program."""
