"""Rounds of query, oracle and training, with an oracle that knows the labels."""
