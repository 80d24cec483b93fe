"""Classifiers as pure functions, with taps on their activations."""

from fkjax.models.adapters import from_nnx
from fkjax.models.lenet import lenet

__all__ = ["from_nnx", "lenet"]
