"""Datasets, splits and biased pools."""
