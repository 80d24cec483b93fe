"""Perturbed copies of an image: slightly rotated, with noise."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fkjax.base import key_for
from fkjax.parallel.mapping import map_apart


def copies(
    key: jax.Array,
    image: jax.Array,
    std: Sequence[float],
    *,
    num_copies: int = 128,
    angle: float = 5.0,
    noise: float = 0.01,
) -> jax.Array:
    """Returns copies of an image with random rotations and random noise.

    The k-th copy does not depend on the number of copies.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        key: random key of the example.
        image: image in 0..255. Shape [H, W, channels].
        std: standard deviation by which the model divides each channel of image / 255.
        num_copies: number of copies, K.
        angle: standard deviation of the angle, in degrees.
        noise: standard deviation of the noise in normalized units, in which the
            images have standard deviation 1.

    Returns:
        The copies, whose values may be outside 0..255. Shape [num_copies, H, W,
        channels], float32.
    """

    def one(k: jax.Array) -> jax.Array:
        copy = key_for(key, "copy", k)
        turn = jnp.deg2rad(angle) * jax.random.normal(
            key_for(copy, "angle"), dtype=jnp.float32
        )
        added = _normal(key_for(copy, "noise"), image.shape)
        return (
            rotated(image, turn) + (255 * noise) * jnp.asarray(std)[None, None] * added
        )

    return map_apart(one, jnp.arange(num_copies), batch_size=32)


def rotated(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotates an image about its center, by bilinear sampling.

    Values from outside the image are the nearest values of its border.

    Args:
        image: image to rotate. Shape [H, W, channels].
        angle: angle in radians, in the direction of `jax.numpy.rot90`. Shape [].

    Returns:
        The rotated image. Shape [H, W, channels], float32.
    """
    height, width, _ = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.arange(height)[:, None] - middle_y, jnp.arange(width)[None] - middle_x
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = [cos * y + sin * x + middle_y, cos * x - sin * y + middle_x]

    def sample(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(
            channel, source, order=1, mode="nearest"
        )

    return jax.vmap(sample, 2, 2)(image.astype(jnp.float32))


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws from a standard normal distribution of 65,536 equally probable values.

    All values are between -4.4 and 4.4. Each random word gives two of them. On CPU,
    this takes little more than half the time of `jax.random.normal`, which takes longer
    than the rotation.
    """
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    halves = jnp.stack([words & 0xFFFF, words >> 16], axis=-1).ravel()[:size]
    centered = (halves.astype(jnp.float32) - 32767.5) / 32768
    return math.sqrt(2) * jax.lax.erf_inv(centered).reshape(shape)
