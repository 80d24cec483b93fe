"""Residual networks of basic blocks with 10 and 18 layers (He et al. 2016)."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fkjax.base import Model, Tap
from fkjax.models.adapters import from_nnx

Stem = Literal["cifar", "imagenet"]

# Preserves the variance of gradients through a ReLU (He et al., ICCV 2015, Sec. 2.2).
_kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")

_MARGIN = ((0, 0), (1, 1), (1, 1), (0, 0))


def _conv(
    inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=_kaiming,
        rngs=rngs,
    )


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


class _Block(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, outputs, 3, stride, rngs)
        self.norm1 = _norm(outputs, rngs)
        self.conv2 = _conv(outputs, outputs, 3, 1, rngs)
        self.norm2 = _norm(outputs, rngs)
        self.changes_shape = inputs != outputs or stride != 1
        if self.changes_shape:
            self.shortcut = _conv(inputs, outputs, 1, stride, rngs)
            self.shortcut_norm = _norm(outputs, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x), mask=mask))
        y = self.norm2(self.conv2(y), mask=mask)
        if self.changes_shape:
            x = self.shortcut_norm(self.shortcut(x), mask=mask)
        return nnx.relu(x + y)


class _Stage(nnx.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, num_blocks: int, rngs: nnx.Rngs
    ):
        self.names = tuple(f"block{i}" for i in range(1, num_blocks + 1))
        for name in self.names:
            setattr(self, name, _Block(inputs, outputs, stride, rngs))
            inputs, stride = outputs, 1

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        for name in self.names:
            x = getattr(self, name)(x, mask)
        return x


class _ResNet(nnx.Module):
    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_blocks: int,
        width: int,
        stem: Stem,
        rngs: nnx.Rngs,
    ):
        self.pools = stem == "imagenet"
        size, stride = (7, 2) if self.pools else (3, 1)
        self.stem = _conv(channels, width, size, stride, rngs)
        self.stem_norm = _norm(width, rngs)
        self.stage1 = _Stage(width, width, 1, num_blocks, rngs)
        self.stage2 = _Stage(width, 2 * width, 2, num_blocks, rngs)
        self.stage3 = _Stage(2 * width, 4 * width, 2, num_blocks, rngs)
        self.stage4 = _Stage(4 * width, 8 * width, 2, num_blocks, rngs)
        self.head = nnx.Linear(8 * width, num_classes, rngs=rngs)

    def __call__(
        self, x: jax.Array, tap: Tap, mask: jax.Array | None = None
    ) -> jax.Array:
        if mask is not None:
            mask = mask[:, None, None, None]
        x = nnx.relu(self.stem_norm(self.stem(x), mask=mask))
        if self.pools:
            x = lax.reduce_window(
                x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), _MARGIN
            )
        x = tap("stage1", self.stage1(x, mask))
        x = tap("stage2", self.stage2(x, mask))
        x = tap("stage3", self.stage3(x, mask))
        x = tap("stage4", self.stage4(x, mask))
        x = tap("pool", x.mean((1, 2)))
        return tap("logits", self.head(x))


def resnet10(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 64,
    stem: Stem | None = None,
    conv_dropout: float = 0.0,
    dense_dropout: float = 0.0,
) -> Model:
    """Returns a ResNet with one basic block in each of four stages.

    From the second stage on, each stage has twice the filters of the previous one and
    half its height and width. Each convolution is followed by batch normalization,
    whose running statistics have momentum 0.9. The shortcut of a block that changes the
    shape is a convolution of 1 x 1.

    >>> model = resnet10((32, 32, 3), 10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes.parameters))
    4903242

    Source: the blocks of Sec. 3.3 of He et al., Deep residual learning for image
    recognition, CVPR 2016, which does not include this depth.

    Args:
        image_shape: shape of the images, (H, W, channels), of any size.
        num_classes: number of classes, C.
        mean: mean of each channel of images scaled to 0..1.
        std: standard deviation of each channel.
        width: number of filters of the stem and the first stage.
        stem: "cifar" for a convolution of 3 x 3 at stride 1, or "imagenet" for a
            convolution of 7 x 7 at stride 2 followed by a maximum over 3 x 3 at stride
            2. None selects "imagenet" for images of 128 x 128 or larger.
        conv_dropout: share of values to drop after each stage in training.
        dense_dropout: share of values to drop after the spatial mean in training.

    Returns:
        The model, with taps stage1 (width channels), stage2 (2 width), stage3 (4
        width), stage4 (8 width), pool (the spatial mean of stage4) and logits (C).

    Raises:
        ValueError: if the stem is unknown, or the width is less than 1.
    """
    model = _resnet(1, image_shape, num_classes, width, mean, std, stem)
    return _with_dropout(model, conv_dropout, dense_dropout)


def resnet18(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    width: int = 64,
    stem: Stem | None = None,
    conv_dropout: float = 0.0,
    dense_dropout: float = 0.0,
) -> Model:
    """Returns ResNet-18 (He et al. 2016, Table 1), with two blocks in each stage.

    >>> model = resnet18((224, 224, 3), 1000, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes.parameters))
    11689512

    See `resnet10` for the arguments, the taps and the errors.
    """
    model = _resnet(2, image_shape, num_classes, width, mean, std, stem)
    return _with_dropout(model, conv_dropout, dense_dropout)


def _with_dropout(model: Model, conv_dropout: float, dense_dropout: float) -> Model:
    rates = dict.fromkeys(model.taps[:-2], conv_dropout) | {"pool": dense_dropout}
    return model._replace(dropout=tuple(rates.items()))


def _resnet(
    num_blocks: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    stem: Stem | None,
) -> Model:
    if width < 1:
        raise ValueError(f"width must be 1 or more, got {width}")
    if stem not in (None, "cifar", "imagenet"):
        raise ValueError(
            f"stem must be 'cifar' or 'imagenet', got {stem!r}: leave it out to select "
            "it by the size of the images"
        )
    chosen: Stem = stem or ("imagenet" if min(image_shape[:2]) >= 128 else "cifar")
    return from_nnx(
        lambda rngs: _ResNet(
            image_shape[2], num_classes, num_blocks, width, chosen, rngs
        ),
        taps=("stage1", "stage2", "stage3", "stage4", "pool", "logits"),
        head="head",
        image_shape=image_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
    )
