"""Slightly turned and noisy copies of an image: what it could as well have been."""

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
    """Copies of an image, each turned by a random angle and with random noise.

    The k-th copy does not depend on how many there are.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        key: the example's own.
        image: Shape [H, W, channels], in 0..255.
        std: by which the model divides each channel of image / 255.
        num_copies: how many.
        angle: standard deviation of the angle, in degrees.
        noise: standard deviation of the noise in normalised units, in which the
            images have standard deviation 1.

    Returns:
        Shape [num_copies, H, W, channels], float32. Values may leave 0..255.
    """

    def one(k: jax.Array) -> jax.Array:
        copy = key_for(key, "copy", k)
        turn = jnp.deg2rad(angle) * jax.random.normal(
            key_for(copy, "angle"), dtype=jnp.float32
        )
        added = _normal(key_for(copy, "noise"), image.shape)
        return rotated(image, turn) + (255 * noise) * jnp.asarray(std) * added

    return map_apart(one, jnp.arange(num_copies), batch_size=32)


def rotated(image: jax.Array, angle: jax.Array) -> jax.Array:
    """An image turned about its centre, by bilinear sampling.

    What comes from outside the image is the nearest value of its border.

    Args:
        image: Shape [H, W, channels].
        angle: in radians, as `jax.numpy.rot90` turns. Shape [].

    Returns:
        Shape [H, W, channels], float32.
    """
    height, width, _ = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = jnp.arange(height)[:, None] - middle_y, jnp.arange(width) - middle_x
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source = [cos * y + sin * x + middle_y, cos * x - sin * y + middle_x]

    def sample(channel: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(
            channel, source, order=1, mode="nearest"
        )

    return jax.vmap(sample, 2, 2)(image.astype(jnp.float32))


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal in 65,536 steps of equal probability, below 4.4 in size.

    Two values from each random word: on CPU in little more than half the time of
    `jax.random.normal`, which takes longer than the rotation.
    """
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    halves = jnp.stack([words & 0xFFFF, words >> 16], axis=-1).ravel()[:size]
    centred = (halves.astype(jnp.float32) - 32767.5) / 32768
    return math.sqrt(2) * jax.lax.erf_inv(centred).reshape(shape)
