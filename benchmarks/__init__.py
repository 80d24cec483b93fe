"""Measurements and reproductions, each a command: `python -m benchmarks.NAME`."""
