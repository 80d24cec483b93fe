"""Dropout as a tap: whole passes of a model are stochastic where its taps are."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fkjax.base import Tap, key_for


def dropout(key: jax.Array, rates: Mapping[str, float]) -> Tap:
    """Makes a tap that drops values of some activations and scales up the others.

    >>> tap = dropout(jax.random.key(0), {"fc1": 0.5})
    >>> set(tap("fc1", jnp.ones((4, 50))).ravel().tolist())
    {0.0, 2.0}

    One random byte a value decides, so a rate counts in steps of 1/256.

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
        threshold = round(256 * rates.get(name, 0.0))
        if threshold == 0:
            return activation
        byte = jax.random.bits(key_for(key, name), activation.shape, jnp.uint8)
        scaled = activation * (256 / (256 - threshold))
        return jnp.where(byte >= threshold, scaled, 0)

    return tap
