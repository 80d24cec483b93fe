"""Run folders: the configuration, records and checkpoints of a run on disk."""
