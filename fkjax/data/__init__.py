"""Data sets, splits and biased pools."""
