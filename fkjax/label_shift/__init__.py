"""Estimates of the class balance of a pool without labels, with intervals."""
