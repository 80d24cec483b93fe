"""The checks of a strategy: every strategy passes, and each fault is found."""

import dataclasses
import doctest
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax import testing
from fkjax.acquisition import STRATEGIES, random
from fkjax.acquisition.access import LabelAccessError
from fkjax.acquisition.ranking import highest
from fkjax.base import Query, Strategy
from fkjax.testing import SMALL, check_strategy
from tests.acquisition.outputs import GREEDY

# These are not random if there are fewer mistakes than the budget.
FIXED = {
    *("feature_match", "fisher_argmax", "fisher_nearest", "fisher_nearest_joint"),
    *("fisher_oracle", "margin", "least_confidence"),
    *GREEDY,
}

# One of each kind; the others share their code and take a minute more.
QUICK = {
    "random",
    "feature_match",
    "fisher_nearest",
    "fisher_ratio",
    "margin",
    "variation_ratio",
    "vaal",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in STRATEGIES
    ],
)
def test_every_strategy_keeps_the_contract(name):
    # The determinants of `fisher_information` are slow for many channels.
    taps = ("conv1",) if "information" in name else SMALL.taps
    left_out = check_strategy(name, settings=dataclasses.replace(SMALL, taps=taps))
    # Copies have no effect on some platforms; and two examples that cover only each
    # other have the same gain, up to rounding.
    if name not in ("fisher_covariance", "max_herding"):
        assert ("another key" in " ".join(left_out)) == (name not in FIXED)
    scores_nothing = name in ("random", "balance_oracle")
    assert ("is_bad is None" in " ".join(left_out)) == scores_nothing
    assert "all fields are declared" not in " ".join(left_out)


def test_the_example_runs():
    assert doctest.testmod(testing).attempted >= 5
    assert doctest.testmod(testing).failed == 0
    assert "brightest" not in STRATEGIES


def brightness(view):
    return jnp.asarray(view.pool).mean(axis=(1, 2, 3))


def query_of(key, view, wanted=None, **changed):
    wanted = brightness(view) if wanted is None else wanted
    query = highest(key, wanted, view.is_unlabeled, budget=SMALL.budget)
    return query._replace(**changed)


def strategy(query, *sees):
    return lambda model: Strategy(frozenset(sees), query)


def twice(key, view):
    query = query_of(key, view)
    return query._replace(indices=query.indices.at[1].set(query.indices[0]))


def labeled(key, view):
    return query_of(key, view._replace(is_unlabeled=jnp.ones_like(view.is_unlabeled)))


def outside(key, view):
    query = query_of(key, view)
    return query._replace(indices=jnp.where(view.is_unlabeled.sum() < 5, 24, query[0]))


def too_few(key, view):
    return jax.tree.map(lambda x: x[:3], query_of(key, view)._replace(is_bad=None))


def not_static(key, view):
    return query_of(key, view._replace(pool=view.pool[view.is_unlabeled]))


def by_value(key, view):
    return query_of(key, view) if view.is_unlabeled[0] else query_of(key, view)


def by_position(key, view):
    return query_of(key, view, -jnp.arange(24.0))


def not_permuted(key, view):
    first = view.pool[0].sum().astype(jnp.int32) % 4
    return query_of(key, view, pseudo_labels=jnp.full(SMALL.budget, first))


def peeking(field):
    def query(key, view):
        return query_of(key, view, brightness(view) + getattr(view, field).sum())

    return query


def swallowing(key, view):
    """Reads a field that it does not declare, and hides the error."""
    try:
        scores = brightness(view) * (view.pool_labels == 1)
    except LabelAccessError:
        scores = brightness(view)
    return query_of(key, view, scores)


def counting():
    """Makes a strategy whose state changes each time it is made."""
    numbers = itertools.count()

    def make(model):
        salt = next(numbers)

        def query(key, view):
            return random(budget=4).query(jax.random.fold_in(key, salt), view)

        return Strategy(frozenset(), query)

    return make


def restless(key, view):
    """Draws random numbers on the host at each call."""
    generator = np.random.default_rng()
    scores = jax.pure_callback(
        lambda: generator.random(24).astype(np.float32),
        jax.ShapeDtypeStruct((24,), jnp.float32),
    )
    return query_of(key, view, scores)


def with_targets(targets):
    return lambda key, view: query_of(key, view, targets=jnp.array(targets, jnp.int32))


def silent(key, view):
    return query_of(key, view, is_bad=jnp.zeros(24, bool))


def lost(key, view):
    """Returns a position that does not exist if an image is NaN."""
    query = query_of(key, view, is_bad=None)
    total = view.pool.sum()
    return query._replace(indices=jnp.where(jnp.isnan(total), -1, query.indices))


def changed(**fields):
    return strategy(lambda key, view: query_of(key, view, **fields))


BROKEN = {
    "no strategy": (lambda model: None, "return a Strategy, got NoneType"),
    "no query": (strategy(lambda key, view: view.is_unlabeled), "must return a Query"),
    "twice": (strategy(twice), "an example more than once"),
    "labeled": (strategy(labeled), r"with a third labeled, .* labeled examples \["),
    "outside": (strategy(outside), r"all but the budget .*\[24, .* outside a pool"),
    "too few": (strategy(too_few), r"indices must have .* \(4,\), got \(3,\)"),
    "floats": (changed(pseudo_labels=jnp.zeros(4)), "pseudo_labels must be integer"),
    "scores": (changed(scores=jnp.zeros(4, int)), "scores must be floating"),
    "is_bad": (changed(is_bad=jnp.zeros(4, bool)), r"is_bad must be .* \(24,\)"),
    "is_bad_validation": (
        changed(is_bad_validation=jnp.zeros(10)),
        r"is_bad_validation must be None or bool of shape \(10,\)",
    ),
    "class": (changed(pseudo_labels=jnp.full(4, 4)), "pseudo_labels .* of 4 classes"),
    "target": (strategy(with_targets([-1, 10, 1, 1])), r"targets must .* got \[10\]"),
    "right": (strategy(with_targets([1, 0, 3, 4])), r"must be mistakes, .* \[0, 4\]"),
    "not static": (strategy(not_static), "compiled by jax.jit .*NonConcreteBoolean"),
    "by value": (strategy(by_value), "compiled by jax.jit .*TracerBool"),
    "restless": (strategy(restless), "two calls with the same key"),
    "counting": (counting(), "made and compiled again, .* indices"),
    "by position": (strategy(by_position), "the pool in another order, the query has"),
    "not permuted": (strategy(not_permuted), "pseudo_labels changes with the order"),
    **{
        field: (strategy(peeking(field)), f"read '{field}' without declaring it")
        for field in (
            "validation",
            "validation_labels",
            "validation_mistakes",
            "pool_labels",
        )
    },
    "unknown field": (strategy(query_of, "test_labels"), "can declare .*test_labels"),
    "swallowing": (strategy(swallowing), "depends on 'pool_labels'"),
    "silent": (strategy(silent), "is NaN, but is_bad is false"),
    "lost": (strategy(lost), r"an image of NaN, .* indices \[-1, -1, -1, -1\]"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_breach_is_caught(broken):
    make, message = broken
    with pytest.raises(AssertionError, match=message) as error:
        check_strategy(make)
    assert "\n" not in str(error.value)


def test_what_breaks_nothing_passes():
    """The strategy that the faults above are made from, and a declared field."""
    assert check_strategy(strategy(query_of)) == ()
    reads = strategy(peeking("validation_labels"), "validation_labels")
    assert check_strategy(reads) == ()
    by_lot = check_strategy(random)
    assert len(by_lot) == 2


def test_the_problem_is_one_that_a_strategy_can_work_on():
    model, view = testing._problem()
    assert 0 < view.validation_mistakes.sum() < SMALL.budget
    predicted = model.apply(view.variables, view.validation).argmax(axis=1)
    np.testing.assert_array_equal(
        predicted != view.validation_labels, view.validation_mistakes
    )
    assert isinstance(Query(*[jnp.zeros(1)] * 4), Query)
