"""Random queries: as a strategy, and as a share of the budget of another strategy."""

import jax
import jax.numpy as jnp

from fkjax.base import Model, Query, Strategy, View, key_for


def random(model: Model | None = None, *, budget: int) -> Strategy:
    """Returns the strategy that draws `budget` unlabeled examples uniformly.

    The examples are drawn without replacement.
    """
    del model

    def query(key: jax.Array, view: View) -> Query:
        return _draw(key, view.is_unlabeled, budget)

    return Strategy(frozenset(), query)


def with_random_share(strategy: Strategy, share: float) -> Strategy:
    """Returns a strategy that draws a share of the budget at random.

    The mistakes on a small validation set may not be representative of the mistakes in
    deployment; random examples reduce that risk.

    Args:
        strategy: a strategy whose queries are sorted, most wanted first. The first
            examples of its query are kept.
        share: share of the budget that is drawn at random, rounded to whole examples.

    Returns:
        A strategy of the same budget, which declares the fields of `strategy`.

    Raises:
        ValueError: if the share is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")

    def query(key: jax.Array, view: View) -> Query:
        wanted = strategy.query(key, view)
        budget = len(wanted.indices)
        num_kept = budget - round(share * budget)
        bad = wanted.is_bad, wanted.is_bad_validation
        wanted = wanted._replace(is_bad=None, is_bad_validation=None)
        kept = jax.tree.map(lambda x: x[:num_kept], wanted)
        rest = view.is_unlabeled.at[kept.indices].set(False)
        drawn = _draw(key_for(key, "random share"), rest, budget - num_kept)
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), kept, drawn)
        return joined._replace(is_bad=bad[0], is_bad_validation=bad[1])

    return Strategy(strategy.sees, query)


def _draw(key: jax.Array, is_unlabeled: jax.Array, num: int) -> Query:
    draw = jax.random.uniform(key, is_unlabeled.shape, jnp.float32)
    _, indices = jax.lax.top_k(jnp.where(is_unlabeled, draw, -1), num)
    nothing = jnp.full(num, -1, jnp.int32)
    return Query(indices, nothing, nothing, jnp.full(num, jnp.nan))
