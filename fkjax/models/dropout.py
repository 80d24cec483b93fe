"""Dropout as a tap, which makes the passes of a model stochastic."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fkjax.base import Tap, key_for


def dropout(key: jax.Array, rates: Mapping[str, float]) -> Tap:
    """Returns a tap that drops values of activations and scales up the others.

    >>> tap = dropout(jax.random.key(0), {"fc1": 0.5})
    >>> set(tap("fc1", jnp.ones((4, 50))).ravel().tolist())
    {0.0, 2.0}

    Rates are rounded to multiples of 1/256. As few random bits are drawn for a value as
    the rate needs: one for 1/2, two for 1/4.

    Args:
        key: random key of the values to drop, from which each tap derives its own.
        rates: share of values to drop, by the name of the tap. The activations of other
            taps do not change.

    Returns:
        The tap.

    Raises:
        ValueError: if a rate is not in 0 .. 255/256.
    """
    for name, rate in rates.items():
        if not 0 <= rate <= 255 / 256:
            raise ValueError(
                f"dropout rates must be from 0 to 255/256, got {rate} for {name}"
            )

    def tap(name: str, activation: jax.Array) -> jax.Array:
        rate = round(256 * rates.get(name, 0.0)) / 256
        if rate == 0:
            return activation
        num_bits = next(bits for bits in (1, 2, 4, 8) if (rate * 2**bits).is_integer())
        # The examples are the last axis, as in the convolutions on CPU.
        *inner, last = range(1, activation.ndim)
        axes = (last, *inner, 0)
        shape = [activation.shape[axis] for axis in axes]
        number = _random_numbers(key_for(key, name), shape, num_bits).transpose(axes)
        is_kept = number >= int(rate * 2**num_bits)
        return jnp.where(is_kept, activation / (1 - rate), 0)

    return tap


def _random_numbers(key: jax.Array, shape: list[int], num_bits: int) -> jax.Array:
    """Draws uniformly from 0 .. 2^bits - 1, several numbers from each 32-bit word."""
    size, a_word = math.prod(shape), 32 // num_bits
    words = jax.random.bits(key, (-(-size // a_word),), jnp.uint32)
    shifts = jnp.arange(0, 32, num_bits, dtype=jnp.uint32)
    numbers = (words[None] >> shifts[:, None]) & jnp.uint32(2**num_bits - 1)
    return numbers.ravel()[:size].reshape(shape)
