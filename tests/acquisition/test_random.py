"""A random share of the budget: the examples that are kept and those that are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import random, with_random_share
from fkjax.base import Query, Strategy, View

NUM, BUDGET = 40, 10


def in_order(key, view):
    """Queries the unlabeled examples in the order of their positions."""
    indices = jnp.argsort(~view.is_unlabeled, stable=True)[:BUDGET]
    return Query(indices, indices % 3, indices % 5, -indices.astype(jnp.float32))


STRATEGY = Strategy(frozenset({"validation"}), in_order)
VIEW = View(None, jnp.zeros((NUM, 1, 1, 1)), jnp.arange(NUM) % 4 > 0, *[None] * 4)


def ask(share, key=0):
    made = with_random_share(STRATEGY, share)
    return jax.tree.map(np.asarray, made.query(jax.random.key(key), VIEW))


@pytest.mark.parametrize(("share", "num_drawn"), [(0, 0), (0.3, 3), (0.57, 6), (1, 10)])
def test_the_share_is_drawn_and_the_first_are_kept(share, num_drawn):
    plain, query = in_order(None, VIEW), ask(share)
    kept = BUDGET - num_drawn
    np.testing.assert_array_equal(query.indices[:kept], plain.indices[:kept])
    np.testing.assert_array_equal(query.scores[:kept], plain.scores[:kept])
    np.testing.assert_array_equal(query.targets[:kept], plain.targets[:kept])
    assert np.isnan(query.scores[kept:]).all() and (query.targets[kept:] == -1).all()
    assert len(set(query.indices)) == BUDGET
    assert VIEW.is_unlabeled[query.indices].all()


def test_the_draw_goes_by_the_key():
    assert set(ask(0.5).indices) == set(ask(0.5).indices)
    assert set(ask(0.5).indices) != set(ask(0.5, key=1).indices)


def test_it_sees_what_the_strategy_sees():
    assert with_random_share(STRATEGY, 0.5).sees == STRATEGY.sees
    assert with_random_share(random(budget=3), 0.5).sees == frozenset()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="from 0 to 1"):
        with_random_share(STRATEGY, share)
