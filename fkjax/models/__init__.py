"""Classifiers as pure functions, with taps on their activations."""

from fkjax.models.adapters import from_linen, from_nnx
from fkjax.models.lenet import lenet

MODELS = {"lenet": lenet}
"""Called as `MODELS[name](image_shape, num_classes, mean=mean, std=std)`."""

__all__ = ["MODELS", "from_linen", "from_nnx", "lenet"]
