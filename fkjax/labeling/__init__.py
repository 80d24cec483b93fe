"""Labeling sessions: rounds in which a person labels their own images."""
