"""The folder that a run leaves on disk."""
