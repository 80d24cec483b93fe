"""A variational autoencoder and a discriminator of its latents, as pure functions.

Both consist only of matrix products. A convolution whose stride equals its kernel size
is one: the same dense layer is applied to all patches of the image. XLA's CPU backend
runs other convolutions in a loop on one core.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

_PATCH = 4  # height and width of a patch
_FILTERS = 32  # number of filters of the first convolution; doubles with each next one
_GRID = 8  # height and width up to which no further convolution is added
_HIDDEN = 256  # number of units of a dense layer


class Autoencoder(NamedTuple):
    """A Gaussian q(z | x) and the mean of p(x | z), for Z latents.

    Attributes:
        init: `init(key) -> parameters`.
        encode: `encode(parameters, images) -> mean, log_variance`, for images of shape
            [N, H, W, channels] in 0..1 and both results of shape [N, Z].
        decode: `decode(parameters, latents) -> images`, with the same shapes.
    """

    init: Callable[[jax.Array], Any]
    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]


class Discriminator(NamedTuple):
    """A binary classifier of latents.

    Attributes:
        init: `init(key) -> parameters`.
        apply: `apply(parameters, latents) -> logits`, of shapes [N, Z] and [N].
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


def autoencoder(
    image_shape: tuple[int, int, int], *, latent_size: int = 32
) -> Autoencoder:
    """Returns an autoencoder of convolutions of 4 x 4 patches and dense layers.

    Convolutions are added until the activations have 8 x 8 positions or fewer.

    Args:
        image_shape: shape of the images, (H, W, channels), of any size.
        latent_size: number of latents, Z.
    """

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return _Autoencoder(image_shape, latent_size, rngs)

    init, module_of = _pure(make)

    def encode(parameters: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return module_of(parameters).encode(images)

    def decode(parameters: Any, latents: jax.Array) -> jax.Array:
        return module_of(parameters).decode(latents)

    return Autoencoder(init, encode, decode)


def discriminator(*, latent_size: int = 32) -> Discriminator:
    """Returns a discriminator with two hidden layers.

    Args:
        latent_size: number of latents, Z.
    """

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return _Discriminator(latent_size, rngs)

    init, module_of = _pure(make)
    return Discriminator(init, lambda parameters, z: module_of(parameters)(z))


class _Autoencoder(nnx.Module):
    def __init__(
        self, image_shape: tuple[int, int, int], latent_size: int, rngs: nnx.Rngs
    ):
        shapes, filters = [image_shape], _FILTERS
        while max(shapes[-1][:2]) > _GRID:
            height, width, _ = shapes[-1]
            shapes.append((-(-height // _PATCH), -(-width // _PATCH), filters))
            filters *= 2
        self.shapes = tuple(shapes)  # shapes of the image and after each convolution
        for i, (before, after) in enumerate(zip(shapes, shapes[1:], strict=False)):
            size = _PATCH**2 * before[2]
            setattr(self, f"conv{i}", nnx.Linear(size, after[2], rngs=rngs))
            setattr(self, f"unconv{i}", nnx.Linear(after[2], size, rngs=rngs))
        height, width, channels = shapes[-1]
        flat = height * width * channels
        self.down = nnx.Linear(flat, _HIDDEN, rngs=rngs)
        self.moments = nnx.Linear(_HIDDEN, 2 * latent_size, rngs=rngs)
        self.up = nnx.Linear(latent_size, _HIDDEN, rngs=rngs)
        self.unflatten = nnx.Linear(_HIDDEN, flat, rngs=rngs)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for i in range(len(self.shapes) - 1):
            x = nnx.relu(getattr(self, f"conv{i}")(_to_patches(x)))
        x = nnx.relu(self.down(x.reshape(len(x), -1)))
        mean, log_variance = jnp.split(self.moments(x), 2, axis=1)
        return mean, log_variance

    def decode(self, z: jax.Array) -> jax.Array:
        x = self.unflatten(nnx.relu(self.up(z)))
        x = x.reshape(-1, *self.shapes[-1])
        for i, (height, width, _) in reversed(list(enumerate(self.shapes[:-1]))):
            x = _from_patches(getattr(self, f"unconv{i}")(nnx.relu(x)))
            x = x[:, :height, :width]
        return x


class _Discriminator(nnx.Module):
    def __init__(self, latent_size: int, rngs: nnx.Rngs):
        self.dense1 = nnx.Linear(latent_size, _HIDDEN, rngs=rngs)
        self.dense2 = nnx.Linear(_HIDDEN, _HIDDEN, rngs=rngs)
        self.head = nnx.Linear(_HIDDEN, 1, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        z = nnx.relu(self.dense2(nnx.relu(self.dense1(z))))
        return self.head(z)[:, 0]


def _pure(
    make_module: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Callable[[jax.Array], Any], Callable[[Any], Any]]:
    """Returns `init(key) -> parameters` and `module_of(parameters) -> module`.

    The module must not have other variables than parameters.
    """
    shapes: Any = nnx.eval_shape(lambda: make_module(nnx.Rngs(0)))
    graph = nnx.graphdef(shapes)

    def init(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(make_module(nnx.Rngs(key))))

    return init, lambda parameters: nnx.merge(graph, nnx.State(parameters))


def _to_patches(x: jax.Array) -> jax.Array:
    """Splits [N, H, W, C] into [N, ceil(H / p), ceil(W / p), p p C], zero-padded."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % _PATCH), (0, -width % _PATCH), (0, 0)))
    x = x.reshape(
        n, -(-height // _PATCH), _PATCH, -(-width // _PATCH), _PATCH, channels
    )
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(*x.shape[:3], -1)


def _from_patches(x: jax.Array) -> jax.Array:
    """Joins patches [N, H, W, p p C] to [N, H p, W p, C], the inverse."""
    n, height, width, _ = x.shape
    x = x.reshape(n, height, width, _PATCH, _PATCH, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height * _PATCH, width * _PATCH, -1)
