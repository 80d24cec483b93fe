"""Tests of the properties that every strategy must have.

A strategy is a function that builds it from a model and the settings, and a line that
registers its name for `--strategies`. This one queries the brightest images:

>>> from fkjax.acquisition import STRATEGIES, Strategy, highest, map_examples
>>> def brightest(model, *, budget, batch_size=100):
...     def query(key, view):
...         scores = map_examples(jnp.mean, view.pool, batch_size=batch_size)
...         return highest(key, scores, view.is_unlabeled, budget=budget)
...
...     return Strategy(frozenset(), query)
>>> STRATEGIES["brightest"] = brightest

A test needs only one call, which returns the checks that do not apply:

>>> check_strategy("brightest")
()
>>> _ = STRATEGIES.pop("brightest")
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.acquisition import STRATEGIES, Factory, Settings, make_strategy
from fkjax.acquisition.access import LabelAccessError, restrict
from fkjax.base import (
    Model,
    PriorCorrection,
    Query,
    Strategy,
    Tap,
    Variables,
    View,
    no_tap,
    seed_key,
)
from fkjax.models import lenet
from fkjax.training.evaluation import predictions

SMALL = Settings(
    budget=4, taps=("conv1", "fc1"), num_passes=4, num_steps=3, num_copies=4
)
"""Settings for the problem of `check_strategy`: a LeNet on images of 8 x 8."""


def check_strategy(
    factory: Factory | str, *, settings: Settings = SMALL
) -> tuple[str, ...]:
    """Asserts the properties that a run requires of a strategy, on a small problem.

    1. The strategy declares the fields that it reads in `sees`, and they exist.
    2. The query compiles to one program for all rounds.
    3. If none, a third, or all but B examples of the pool are labeled, a query has B
       distinct unlabeled positions, and labels, targets and scores of shape [B]. The
       targets are mistakes on the validation set.
    4. The same key gives the same query, bit for bit, even after the strategy is made
       and compiled again.
    5. Fields that are not declared do not change the query.
    6. The order of the pool does not change which examples are queried. This check is
       skipped if another key gives another query, because the query is random.
    7. `is_bad` is true for an image of NaN. A strategy without `is_bad` must still give
       a valid query.

    Args:
        factory: function `factory(model, *, budget, ...) -> Strategy`, as in
            `STRATEGIES`, or a name in `STRATEGIES`.
        settings: settings of the strategy, with a budget of at most 16 and taps of
            `fkjax.models.lenet`.

    Returns:
        For each check that does not apply, a sentence that says why.

    Raises:
        AssertionError: if a property does not hold; the message says which.
    """
    if isinstance(factory, str):
        factory = STRATEGIES[factory]
    problem = _problem()
    view = problem.view
    strategy = make_strategy(factory, problem.model, settings)
    _check_declared(strategy, view)
    program = _compiled(strategy, view)
    for name, is_unlabeled in _rounds(settings.budget).items():
        then = _with_labels(view, is_unlabeled)
        _check_query(program(0, then), then, settings.budget, f"with {name} labeled")

    query = program(0, view)
    _same(query, program(0, view), "two calls with the same key give different queries")
    _same(
        query,
        _compiled(make_strategy(factory, problem.model, settings), view)(0, view),
        "after being made and compiled again, the strategy gives another query for the "
        "same key: use no randomness but the key, and keep no state",
    )
    left_out = _check_undeclared(program, strategy.sees, query, view)
    left_out += _check_permuted(program, query, view)
    left_out += _check_nan(program, view, settings.budget)
    return tuple(left_out)


_NUM_POOL, _NUM_VALIDATION, _NUM_CLASSES, _NUM_MISTAKES = 24, 10, 4, 3
_Program = Callable[[int, View], Query]  # from a seed and all fields of a view


class _Problem(NamedTuple):
    model: Model
    view: View  # with all fields; a third of the pool is labeled


@functools.cache
def _problem() -> _Problem:
    """Returns images with a bright corner for each class, and an untrained LeNet.

    There are fewer mistakes than the budget, so strategies that match mistakes need not
    choose among them at random.
    """
    rng = np.random.default_rng(0)
    model = _unforgiving(lenet((8, 8, 1), _NUM_CLASSES))
    variables = jax.jit(model.init)(seed_key(0))

    def spots(labels: np.ndarray) -> jax.Array:
        images = rng.integers(0, 100, (len(labels), 8, 8, 1)).astype(np.float32)
        for image, label in zip(images, labels, strict=True):
            y, x = 4 * (label // 2), 4 * (label % 2)
            image[y : y + 4, x : x + 4] += 150
        return jnp.asarray(images)

    labels = rng.integers(0, _NUM_CLASSES, _NUM_POOL).astype(np.int32)
    pool = spots(labels)
    validation = spots(np.arange(_NUM_VALIDATION) % _NUM_CLASSES)
    predicted = jax.jit(lambda v, x: predictions(model, v, x))(variables, validation)
    is_mistake = jnp.zeros(_NUM_VALIDATION, bool).at[1 : 1 + _NUM_MISTAKES].set(True)
    view = View(
        variables=variables,
        pool=pool,
        is_unlabeled=jnp.ones(_NUM_POOL, bool),
        validation=validation,
        validation_labels=jnp.where(
            is_mistake, (predicted + 1) % _NUM_CLASSES, predicted
        ),
        validation_mistakes=is_mistake,
        pool_labels=jnp.asarray(labels),
        correction=PriorCorrection(
            jnp.float32(0.8), jnp.float32(1.2), jnp.linspace(-0.5, 0.5, _NUM_CLASSES)
        ),
    )
    return _Problem(model, _with_labels(view, _rounds(0)["a third"]))


def _with_labels(view: View, is_unlabeled: jax.Array) -> View:
    """Returns the view of a round in which the other examples have been labeled."""
    labels = jnp.where(is_unlabeled, -1, view.pool_labels)
    return view._replace(is_unlabeled=is_unlabeled, labels=labels)


def _unforgiving(model: Model) -> Model:
    """Returns a model whose activations are all NaN for an image of NaN."""

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        zero = 0 * images.sum(axis=(1, 2, 3))

        def spread(name: str, activation: jax.Array) -> jax.Array:
            return tap(
                name, activation + jnp.expand_dims(zero, range(1, activation.ndim))
            )

        return model.apply(variables, images, spread)

    return model._replace(apply=apply)


def _rounds(budget: int) -> dict[str, jax.Array]:
    """Returns masks of the unlabeled pool examples at several stages of a run."""
    positions = jnp.arange(_NUM_POOL)
    spread = (positions * 7) % _NUM_POOL  # the remaining examples are not one block
    return {
        "nothing": positions >= 0,
        "a third": positions % 3 > 0,
        "all but the budget": spread < budget,
    }


def _compiled(strategy: Any, view: View) -> _Program:
    """Compiles the query to one program of fixed shapes; its view has all fields."""
    compiled = _tried(lambda key: jax.jit(strategy.query).lower(key, view).compile())
    return lambda seed, view: compiled(seed_key(seed), view)


def _check_declared(strategy: Any, view: View) -> None:
    """Traces the query on the fields that it declares, without computing it."""
    assert isinstance(strategy, Strategy), (
        f"the factory must return a Strategy, got {type(strategy).__name__}"
    )
    try:
        seen = restrict(view, strategy, hidden_labels=lambda: view.pool_labels)
    except ValueError as error:  # it declares a field that does not exist
        raise AssertionError(str(error)) from error
    _tried(lambda key: jax.eval_shape(strategy.query, key, seen))


def _tried(attempt: Callable[[jax.Array], Any]) -> Any:
    try:
        return attempt(seed_key(0))
    except LabelAccessError as error:
        raise AssertionError(str(error)) from error
    except Exception as error:  # anything that a user's strategy may raise
        first = next(iter(str(error).strip().splitlines()), "")
        raise AssertionError(
            f"the query cannot be compiled by jax.jit ({type(error).__name__}: {first})"
        ) from error


def _check_query(query: Any, view: View, budget: int, when: str) -> None:
    _check_fields(query, budget, when)
    _check_values(query, view, budget, when)


def _check_fields(query: Any, budget: int, when: str) -> None:
    assert isinstance(query, Query), (
        f"query(key, view) must return a Query, got {type(query).__name__}"
    )
    kinds = (jnp.integer, jnp.integer, jnp.integer, jnp.floating)
    for name, field, kind in zip(Query._fields[:4], query[:4], kinds, strict=True):
        assert field.shape == (budget,), (
            f"{when}, {name} must have the shape of the budget, ({budget},), got "
            f"{field.shape}"
        )
        assert jnp.issubdtype(field.dtype, kind), (
            f"{name} must be {kind.__name__}, got {field.dtype}"
        )
    for name, field, num in (
        ("is_bad", query.is_bad, _NUM_POOL),
        ("is_bad_validation", query.is_bad_validation, _NUM_VALIDATION),
    ):
        assert field is None or (field.shape == (num,) and field.dtype == bool), (
            f"{name} must be None or bool of shape ({num},), got {field.dtype} of "
            f"shape {field.shape}"
        )


def _check_values(query: Query, view: View, budget: int, when: str) -> None:
    indices, pseudo_labels, targets = (np.asarray(field) for field in query[:3])
    is_inside = (indices >= 0) & (indices < _NUM_POOL)
    assert is_inside.all(), (
        f"{when}, the query has indices {indices[~is_inside].tolist()} outside a pool "
        f"of {_NUM_POOL}"
    )
    assert len(set(indices.tolist())) == budget, (
        f"{when}, the query has an example more than once: {indices.tolist()}"
    )
    is_unlabeled = np.asarray(view.is_unlabeled)[indices]
    assert is_unlabeled.all(), (
        f"{when}, the query has the labeled examples {indices[~is_unlabeled].tolist()}"
    )
    is_class = (pseudo_labels >= -1) & (pseudo_labels < _NUM_CLASSES)
    assert is_class.all(), (
        f"{when}, pseudo_labels must be -1 or one of {_NUM_CLASSES} classes, got "
        f"{pseudo_labels[~is_class].tolist()}"
    )
    is_target = (targets >= -1) & (targets < _NUM_VALIDATION)
    assert is_target.all(), (
        f"{when}, targets must be -1 or positions in a validation set of "
        f"{_NUM_VALIDATION}, got {targets[~is_target].tolist()}"
    )
    is_right = (targets >= 0) & ~np.asarray(view.validation_mistakes)[targets]
    assert not is_right.any(), (
        f"{when}, targets must be mistakes, got the correctly classified validation "
        f"examples {targets[is_right].tolist()}"
    )


def _same(query: Query, other: Query, complaint: str) -> None:
    for name, a, b in zip(Query._fields, query, other, strict=True):
        assert _bits(a) == _bits(b), f"{complaint}; the first difference is in {name}"


def _bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def _check_undeclared(
    program: _Program, sees: frozenset[str], query: Query, view: View
) -> list[str]:
    """Checks that the query depends only on declared fields, though all are given."""
    others = {
        "validation": view.validation[::-1],
        "validation_labels": (view.validation_labels + 1) % _NUM_CLASSES,
        "validation_mistakes": ~view.validation_mistakes,
        "pool_labels": (view.pool_labels + 1) % _NUM_CLASSES,
        "labels": jnp.where(
            view.is_unlabeled, -1, (view.pool_labels + 1) % _NUM_CLASSES
        ),
        "correction": view.correction._replace(log_ratio=-view.correction.log_ratio),
    }
    undeclared = [name for name in others if name not in sees]
    for name in undeclared:
        _same(
            query,
            program(0, view._replace(**{name: others[name]})),
            f"the query depends on {name!r}, which is not declared in `sees`",
        )
    if not undeclared:
        return ["all fields are declared, so none was changed"]
    return []


def _check_permuted(program: _Program, query: Query, view: View) -> list[str]:
    if any(_bits(program(seed, view)) != _bits(query) for seed in range(1, 9)):
        return ["another key gives another query, so the pool was not permuted"]
    order = np.random.default_rng(1).permutation(_NUM_POOL)
    permuted = view._replace(
        pool=view.pool[order],
        is_unlabeled=view.is_unlabeled[order],
        pool_labels=view.pool_labels[order],
        labels=view.labels[order],
    )
    other = program(0, permuted)
    before, after = np.asarray(query.indices), order[np.asarray(other.indices)]
    assert before.tolist() == after.tolist(), (
        f"with the pool in another order, the query has {after.tolist()} in place of "
        f"{before.tolist()}, though it is not random: break ties by the key"
    )
    for name in ("pseudo_labels", "targets"):
        assert _bits(getattr(query, name)) == _bits(getattr(other, name)), (
            f"{name} changes with the order of the pool"
        )
    return []


def _check_nan(program: _Program, view: View, budget: int) -> list[str]:
    bad = int(np.flatnonzero(view.is_unlabeled)[1])
    images = jnp.asarray(view.pool).at[bad].set(jnp.nan)
    view = view._replace(pool=images)
    query = program(0, view)
    if query.is_bad is None:
        _check_query(query, view, budget, "with an image of NaN")
        return ["is_bad is None, so images of NaN need not be reported"]
    assert bool(query.is_bad[bad]), (
        f"image {bad} of the pool is NaN, but is_bad is false: report NaN scores and "
        "embeddings, or leave is_bad None"
    )
    return []
