"""The baseline: any unlabelled example is as good as any other."""

import jax
import jax.numpy as jnp

from fkjax.base import Query, Strategy, View


def random(*, budget: int) -> Strategy:
    """Draws `budget` unlabelled examples uniformly, without replacement."""

    def query(key: jax.Array, view: View) -> Query:
        draw = jax.random.uniform(key, view.is_unlabeled.shape)
        _, indices = jax.lax.top_k(jnp.where(view.is_unlabeled, draw, -1), budget)
        nothing = jnp.full(budget, -1, jnp.int32)
        return Query(indices, nothing, nothing, jnp.full(budget, jnp.nan))

    return Strategy(frozenset(), query)
