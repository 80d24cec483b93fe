"""Dropout as a tap: whole passes of a model are stochastic where its taps are."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fkjax.base import Tap, key_for


def dropout(key: jax.Array, rates: Mapping[str, float]) -> Tap:
    """Makes a tap that drops values of some activations and scales up the others.

    >>> tap = dropout(jax.random.key(0), {"fc1": 0.5})
    >>> set(tap("fc1", jnp.ones((4, 50))).ravel().tolist())
    {0.0, 2.0}

    A rate counts in steps of 1/256. As few random bits a value are drawn as it needs:
    one for 1/2, two for 1/4.

    Args:
        key: draws the values to drop, differently at each tap.
        rates: the share of values to drop, by the tap's name; others stay whole.

    Returns:
        The tap.

    Raises:
        ValueError: if a rate is not in 0 .. 255/256.
    """
    for name, rate in rates.items():
        if not 0 <= rate <= 255 / 256:
            raise ValueError(f"a dropout rate is from 0 to below 1, {name} has {rate}")

    def tap(name: str, activation: jax.Array) -> jax.Array:
        rate = round(256 * rates.get(name, 0.0)) / 256
        if rate == 0:
            return activation
        num_bits = next(bits for bits in (1, 2, 4, 8) if (rate * 2**bits).is_integer())
        # The examples last, as the convolutions have them in memory on CPU.
        *inner, last = range(1, activation.ndim)
        axes = (last, *inner, 0)
        shape = [activation.shape[axis] for axis in axes]
        number = _random_numbers(key_for(key, name), shape, num_bits).transpose(axes)
        is_kept = number >= int(rate * 2**num_bits)
        return jnp.where(is_kept, activation / (1 - rate), 0)

    return tap


def _random_numbers(key: jax.Array, shape: list[int], num_bits: int) -> jax.Array:
    """Uniform on 0 .. 2^bits - 1, several from each random word of 32 bits."""
    size, a_word = math.prod(shape), 32 // num_bits
    words = jax.random.bits(key, (-(-size // a_word),), jnp.uint32)
    shifts = jnp.arange(0, 32, num_bits, dtype=jnp.uint32)
    numbers = (words >> shifts[:, None]) & jnp.uint32(2**num_bits - 1)
    return numbers.ravel()[:size].reshape(shape)
