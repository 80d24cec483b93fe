"""Experiments: rounds of query, labeling and training with known labels."""
