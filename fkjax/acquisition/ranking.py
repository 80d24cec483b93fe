"""The query of those who score each pool example by itself: the highest scores."""

import jax
import jax.numpy as jnp

from fkjax.base import Query, key_for


def highest(
    key: jax.Array,
    scores: jax.Array,
    is_unlabeled: jax.Array,
    *,
    budget: int,
    is_trained: bool = False,
) -> Query:
    """Queries the highest scores among the unlabelled, among equal ones by lot.

    If all are NaN, they are equal.

    Args:
        key: draws the lot.
        scores: Shape [N].
        is_unlabeled: Shape [N] bool.
        budget: B.
        is_trained: see `fkjax.acquisition.Settings`.

    Returns:
        In descending order. It assumes no labels and answers no mistakes. Scores that
        are NaN or infinite are bad, unless nothing is labelled or trained yet.
    """
    positions = jnp.arange(len(scores))
    lot = jax.random.uniform(key_for(key, "lot"), positions.shape, jnp.float32)
    *_, order = jax.lax.sort(
        (~is_unlabeled, jnp.nan_to_num(-scores), lot, positions), num_keys=3
    )
    indices = order[:budget]
    nothing = jnp.full(budget, -1, jnp.int32)
    is_bad = ~jnp.isfinite(scores) & (is_trained | ~is_unlabeled.all())
    return Query(indices, nothing, nothing, scores[indices], is_bad)
