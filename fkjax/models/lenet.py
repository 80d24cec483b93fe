"""The LeNet of the MNIST experiments of Gudovskiy et al. 2020."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fkjax.base import Model, Tap
from fkjax.models.adapters import from_nnx
from fkjax.models.convolution import conv_general_dilated, max_pool

# Weights and biases are initialized uniformly in +-1 / sqrt(fan in), the default of the
# framework that the paper used; the paper does not state the initialization.
_uniform_fan_in = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _uniform(fan_in: int) -> jax.nn.initializers.Initializer:
    def init(key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None):
        del out_sharding
        bound = fan_in**-0.5
        return jax.random.uniform(
            key, shape, dtype or jnp.float32, minval=-bound, maxval=bound
        )

    return init


class _LeNet(nnx.Module):
    def __init__(self, image_shape: Sequence[int], num_classes: int, rngs: nnx.Rngs):
        height, width, channels = image_shape
        # Two unpadded 5 x 5 convolutions and two poolings need images of 16 x 16: for
        # smaller images, the convolutions are padded.
        padding = "VALID" if min(height, width) >= 16 else "SAME"

        def conv(inputs: int, outputs: int) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                outputs,
                kernel_size=(5, 5),
                padding=padding,
                conv_general_dilated=conv_general_dilated,
                kernel_init=_uniform_fan_in,
                bias_init=_uniform(25 * inputs),
                rngs=rngs,
            )

        def dense(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                kernel_init=_uniform_fan_in,
                bias_init=_uniform(inputs),
                rngs=rngs,
            )

        def after(size: int) -> int:
            return (size if padding == "SAME" else size - 4) // 2

        self.conv1 = conv(channels, 10)
        self.conv2 = conv(10, 20)
        flat = after(after(height)) * after(after(width)) * 20
        self.fc1 = dense(flat, 50)
        self.fc2 = dense(50, num_classes)

    def __call__(self, x: jax.Array, tap: Tap) -> jax.Array:
        x = tap("conv1", nnx.relu(max_pool(self.conv1(x))))
        x = tap("conv2", nnx.relu(max_pool(self.conv2(x))))
        x = tap("fc1", nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))
        return tap("logits", self.fc2(x))


def lenet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    mean: Sequence[float] = (0.1307,),
    std: Sequence[float] = (0.3081,),
    conv_dropout: float = 0.25,
    dense_dropout: float = 0.5,
) -> Model:
    """Returns the LeNet of Gudovskiy et al. 2020, Sec. 5.2.

    >>> model = lenet((28, 28, 1), 10)
    >>> variables = model.init(jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables.parameters))
    21840

    Args:
        image_shape: shape of the images, (H, W, channels), from 4 x 4.
        num_classes: number of classes, C.
        mean: mean of each channel of images scaled to 0..1, by default that of MNIST.
        std: standard deviation of each channel, by default that of MNIST.
        conv_dropout: share of values to drop after each convolution block in training.
        dense_dropout: share of values to drop after fc1 in training.

    Returns:
        The model, with taps conv1 (10 channels), conv2 (20), fc1 (50) and logits (C).

    Raises:
        ValueError: if the image is smaller than 4 x 4.
    """
    if min(image_shape[:2]) < 4:
        raise ValueError(f"lenet needs images of 4 x 4 or larger, got {image_shape}")
    model = from_nnx(
        lambda rngs: _LeNet(image_shape, num_classes, rngs),
        taps=("conv1", "conv2", "fc1", "logits"),
        head="fc2",
        image_shape=image_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
    )
    rates = {"conv1": conv_dropout, "conv2": conv_dropout, "fc1": dense_dropout}
    return model._replace(dropout=tuple(rates.items()))
