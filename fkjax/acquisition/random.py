"""Chance: as a strategy of its own, and as a share of another's budget."""

import jax
import jax.numpy as jnp

from fkjax.base import Query, Strategy, View, key_for


def random(*, budget: int) -> Strategy:
    """Draws `budget` unlabelled examples uniformly, without replacement."""

    def query(key: jax.Array, view: View) -> Query:
        return _draw(key, view.is_unlabeled, budget)

    return Strategy(frozenset(), query)


def with_random_share(strategy: Strategy, share: float) -> Strategy:
    """Keeps the first of a strategy's queries, and draws the others at random.

    A guard: what a handful of validation examples gets wrong may not be what
    deployment does.

    Args:
        strategy: its queries come in the order in which it wants them.
        share: of the budget that is drawn, rounded to whole examples.

    Returns:
        A strategy of the same budget, which sees what `strategy` does.

    Raises:
        ValueError: if the share is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, got {share}")

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
