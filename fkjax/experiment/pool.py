"""The state of the pool: when each example was queried, and its label."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PoolState(NamedTuple):
    """The state of a pool of N examples, as arrays of fixed shapes.

    Attributes:
        round: number of finished rounds. Shape [].
        queried_at: round in which each example was queried, or -1. Shape [N] int32.
        label: label given by the oracle; -1 if the example was not queried or the
            oracle could not tell. Shape [N] int32.
    """

    round: jax.Array
    queried_at: jax.Array
    label: jax.Array

    @property
    def is_unlabeled(self) -> jax.Array:
        """The examples that have not been queried. Shape [N] bool."""
        return self.queried_at < 0


def create(size: int) -> PoolState:
    """Creates a pool of `size` examples without any label."""
    nothing = jnp.full(size, -1, jnp.int32)
    return PoolState(jnp.int32(0), nothing, nothing)


def add(pool: PoolState, indices: jax.Array, labels: jax.Array) -> PoolState:
    """Adds the labels of one round.

    Args:
        pool: pool before the round.
        indices: positions of the queried examples, distinct and unlabeled; a position
            of N or more is left out. Shape [B].
        labels: labels given by the oracle; -1 where it could not tell. Shape [B].

    Returns:
        The pool after the round.
    """
    return PoolState(
        pool.round + 1,
        pool.queried_at.at[indices].set(pool.round, mode="drop"),
        pool.label.at[indices].set(labels.astype(jnp.int32), mode="drop"),
    )


def labeled(pool: PoolState, *, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Returns the labeled examples in an array of fixed shape.

    Args:
        pool: state of the pool.
        capacity: largest number of examples that a run labels.

    Returns:
        The positions of the labeled examples in ascending order, padded with zeros.
        Shape [capacity]. The number of labeled examples. Shape [].
    """
    is_labeled = pool.label >= 0
    (indices,) = jnp.nonzero(is_labeled, size=capacity, fill_value=0)
    return indices, is_labeled.sum()
