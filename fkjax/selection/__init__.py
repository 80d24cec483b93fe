"""Selection of examples to label: one query of a pool."""
