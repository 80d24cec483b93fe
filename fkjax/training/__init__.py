"""Fitting, pretraining and evaluating a model."""
