"""Which pool example was queried in which round, and what the oracle said of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PoolState(NamedTuple):
    """The pool as masks over its N examples; `queried_at` alone replays the history.

    Attributes:
        round: the number of rounds done. Shape [].
        queried_at: the round that queried each example, or -1. Shape [N] int32.
        label: what the oracle said, or -1: it could not tell, or was not asked.
            Shape [N] int32.
    """

    round: jax.Array
    queried_at: jax.Array
    label: jax.Array

    @property
    def is_unlabeled(self) -> jax.Array:
        """Shape [N] bool."""
        return self.queried_at < 0


def create(size: int) -> PoolState:
    """A pool of which nothing is labelled."""
    nothing = jnp.full(size, -1, jnp.int32)
    return PoolState(jnp.int32(0), nothing, nothing)


def add(pool: PoolState, indices: jax.Array, labels: jax.Array) -> PoolState:
    """The pool after a round that queried `indices` and was told `labels`.

    Args:
        pool: the pool before.
        indices: distinct, unlabelled. Shape [B].
        labels: -1 where the oracle could not tell. Shape [B].

    Returns:
        The pool one round on.
    """
    return PoolState(
        pool.round + 1,
        pool.queried_at.at[indices].set(pool.round),
        pool.label.at[indices].set(labels.astype(jnp.int32)),
    )


def labeled(pool: PoolState, *, capacity: int) -> tuple[jax.Array, jax.Array]:
    """The labelled examples in a shape that no round changes.

    Args:
        pool: the pool.
        capacity: the most that will ever be labelled.

    Returns:
        Their positions in ascending order, zeros after the last. Shape [capacity].
        How many there are. Shape [].
    """
    is_labeled = pool.label >= 0
    (indices,) = jnp.nonzero(is_labeled, size=capacity, fill_value=0)
    return indices, is_labeled.sum()
