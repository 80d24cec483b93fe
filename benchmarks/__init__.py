"""Benchmarks and reproductions, run by `python -m benchmarks.NAME`."""
