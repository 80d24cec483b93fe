"""Rounds in which a person labels."""
