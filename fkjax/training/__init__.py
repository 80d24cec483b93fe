"""Fitting, pretraining and evaluation of models."""
