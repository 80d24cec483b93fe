"""Classifiers as pure functions, with taps on their activations."""

from fkjax.models.adapters import from_linen, from_nnx
from fkjax.models.lenet import lenet
from fkjax.models.resnet import resnet10, resnet18

MODELS = {"lenet": lenet, "resnet10": resnet10, "resnet18": resnet18}
"""Called as `MODELS[name](image_shape, num_classes, mean=mean, std=std)`."""

__all__ = ["MODELS", "from_linen", "from_nnx", "lenet", "resnet10", "resnet18"]
