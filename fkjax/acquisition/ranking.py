"""Queries of the highest scores, for strategies that score each example separately."""

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
    """Queries the unlabeled examples with the highest scores.

    Ties are broken at random. If all scores are NaN, they are ties.

    Args:
        key: random key of the order of ties.
        scores: scores of the pool examples. Shape [N].
        is_unlabeled: whether each pool example can be queried. Shape [N] bool.
        budget: number of examples to query, B.
        is_trained: whether the model has been trained on labels before any pool example
            is labeled.

    Returns:
        The query, in descending order of the scores, without pseudo-labels and targets.
        Scores that are NaN or infinite are marked as bad, unless no example is labeled
        and `is_trained` is false.
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
