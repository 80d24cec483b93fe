"""One query of a pool."""
