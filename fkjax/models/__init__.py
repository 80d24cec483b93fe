"""Classifiers as pure functions with taps on their activations."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from fkjax.base import Model
from fkjax.models.adapters import from_linen, from_nnx
from fkjax.models.inputs import as_images
from fkjax.models.lenet import lenet
from fkjax.models.modules import Adapted, from_module, layers
from fkjax.models.precomputed import from_outputs
from fkjax.models.resnet import resnet10, resnet18
from fkjax.models.saved import restore_variables
from fkjax.models.tracing import Layer


class Architecture(NamedTuple):
    """A model that the command line can train, and its defaults.

    Attributes:
        make: `make(image_shape, num_classes, *, mean, std, conv_dropout,
            dense_dropout) -> Model`.
        taps: default names of the taps whose activations enter the descriptors.
        conv_dropout: share of values to drop after each convolution block in training.
        dense_dropout: share of values to drop before the last layer in training.
    """

    make: Callable[..., Model]
    taps: tuple[str, ...]
    conv_dropout: float
    dense_dropout: float


_RESNET = {"taps": ("stage3", "pool"), "conv_dropout": 0.0, "dense_dropout": 0.5}

MODELS = {
    "lenet": Architecture(lenet, ("conv1", "conv2", "fc1"), 0.25, 0.5),
    "resnet10": Architecture(resnet10, **_RESNET),
    "resnet10_7x7": Architecture(
        functools.partial(resnet10, stem="imagenet"), **_RESNET
    ),
    "resnet18": Architecture(resnet18, **_RESNET),
}
"""The models by the names that `--model` accepts; add a model by adding an entry."""

__all__ = [
    "MODELS",
    "Adapted",
    "Architecture",
    "Layer",
    "as_images",
    "from_linen",
    "from_module",
    "from_nnx",
    "from_outputs",
    "layers",
    "lenet",
    "resnet10",
    "resnet18",
    "restore_variables",
]
