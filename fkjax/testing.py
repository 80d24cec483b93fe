"""Whether a strategy of one's own keeps the promises that the rest of fkjax builds on.

A strategy is one function, which makes it of a model and the settings, and one line,
which gives it a name for `--strategies`. Here is one that asks for the brightest
images:

>>> from fkjax.acquisition import STRATEGIES, Strategy, highest, map_examples
>>> def brightest(model, *, budget, batch_size=100):
...     def query(key, view):
...         scores = map_examples(jnp.mean, view.pool, batch_size=batch_size)
...         return highest(key, scores, view.is_unlabeled, budget=budget)
...
...     return Strategy(frozenset(), query)
>>> STRATEGIES["brightest"] = brightest

In a test of one's own, nothing else is needed; what is returned are the checks that do
not apply:

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
from fkjax.base import Model, Query, Strategy, Tap, Variables, View, no_tap
from fkjax.models import lenet
from fkjax.training.evaluation import predictions

SMALL = Settings(
    budget=4, taps=("conv1", "fc1"), num_passes=4, num_steps=3, num_copies=4
)
"""Settings for the problem of `check_strategy`: a LeNet on images of 8 x 8."""


def check_strategy(
    factory: Factory | str, *, settings: Settings = SMALL
) -> tuple[str, ...]:
    """Asserts what a strategy owes to every run, on a small problem that it has itself.

    1. It declares in `sees` what it reads, and no more exists.
    2. It compiles, as one program that serves every round.
    3. While nothing, a third, and all but B of the pool is labelled, a query is B
       distinct unlabelled positions, with labels, targets and scores of shape [B]; its
       targets are mistakes of the validation set.
    4. The same key gives the same query, bit for bit, also from a program that was
       compiled anew.
    5. What it did not declare does not change the query.
    6. The order of the pool does not change which examples it wants. This is right only
       where nothing is drawn by lot: it is left out if another key gives another query.
    7. An image of NaN is told by `is_bad`; a strategy that computes none queries as it
       should.

    Args:
        factory: `factory(model, *, budget, ...) -> Strategy`, as in `STRATEGIES`, or a
            name there.
        settings: of the strategy: a budget of at most 16, and taps of
            `fkjax.models.lenet`.

    Returns:
        The checks that do not apply, and why, in a sentence each.

    Raises:
        AssertionError: naming what broke.
    """
    if isinstance(factory, str):
        factory = STRATEGIES[factory]
    problem = _problem()
    view = problem.view
    strategy = make_strategy(factory, problem.model, settings)
    _check_declared(strategy, view)
    program = _compiled(strategy, view)
    for name, is_unlabeled in _rounds(settings.budget).items():
        then = view._replace(is_unlabeled=is_unlabeled)
        _check_query(program(0, then), then, settings.budget, f"with {name} labelled")

    query = program(0, view)
    _same(query, program(0, view), "asked twice with one key, it gives two queries")
    _same(
        query,
        _compiled(make_strategy(factory, problem.model, settings), view)(0, view),
        "made and compiled anew, it gives another query for the same key: draw from "
        "the key alone, and keep no state",
    )
    left_out = _check_undeclared(program, strategy.sees, query, view)
    left_out += _check_permuted(program, query, view)
    left_out += _check_nan(program, view, settings.budget)
    return tuple(left_out)


_NUM_POOL, _NUM_VALIDATION, _NUM_CLASSES, _NUM_MISTAKES = 24, 10, 4, 3
_Program = Callable[[int, View], Query]  # of a seed and all that a round knows


class _Problem(NamedTuple):
    model: Model
    view: View  # with all fields, while a third of the pool is labelled


@functools.cache
def _problem() -> _Problem:
    """Spots of light, each class with its own corner, and a LeNet that learned nothing.

    There are fewer mistakes than a budget, so that those who match them need no lot.
    """
    rng = np.random.default_rng(0)
    model = _unforgiving(lenet((8, 8, 1), _NUM_CLASSES))
    variables = jax.jit(model.init)(jax.random.key(0))

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
        variables,
        pool,
        _rounds(0)["a third"],
        validation,
        jnp.where(is_mistake, (predicted + 1) % _NUM_CLASSES, predicted),
        is_mistake,
        jnp.asarray(labels),
    )
    return _Problem(model, view)


def _unforgiving(model: Model) -> Model:
    """Of an image of NaN all activations are NaN, whatever pooling makes of it."""

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        zero = 0 * images.sum(axis=(1, 2, 3))

        def spread(name: str, activation: jax.Array) -> jax.Array:
            return tap(
                name, activation + jnp.expand_dims(zero, range(1, activation.ndim))
            )

        return model.apply(variables, images, spread)

    return model._replace(apply=apply)


def _rounds(budget: int) -> dict[str, jax.Array]:
    """Which pool examples have no label, at several times of a run."""
    positions = jnp.arange(_NUM_POOL)
    spread = (positions * 7) % _NUM_POOL  # those left are not one block
    return {
        "nothing": positions >= 0,
        "a third": positions % 3 > 0,
        "all but the budget": spread < budget,
    }


def _compiled(strategy: Any, view: View) -> _Program:
    """A query as one program, of fixed shapes, for every round; handed everything."""
    compiled = _tried(lambda key: jax.jit(strategy.query).lower(key, view).compile())
    return lambda seed, view: compiled(jax.random.key(seed), view)


def _check_declared(strategy: Any, view: View) -> None:
    """On what it declared, the query is traced only: nothing is computed."""
    assert isinstance(strategy, Strategy), (
        f"make(model, settings) must give a Strategy, got {type(strategy).__name__}"
    )
    try:
        seen = restrict(view, strategy, hidden_labels=lambda: view.pool_labels)
    except ValueError as error:  # it declares what there is not
        raise AssertionError(str(error)) from error
    _tried(lambda key: jax.eval_shape(strategy.query, key, seen))


def _tried(attempt: Callable[[jax.Array], Any]) -> Any:
    try:
        return attempt(jax.random.key(0))
    except LabelAccessError as error:
        raise AssertionError(str(error)) from error
    except Exception as error:  # whatever a strategy of the user's own raises
        first = next(iter(str(error).strip().splitlines()), "")
        raise AssertionError(
            f"its query cannot be compiled by jax.jit ({type(error).__name__}: {first})"
        ) from error


def _check_query(query: Any, view: View, budget: int, when: str) -> None:
    _check_fields(query, budget, when)
    _check_values(query, view, budget, when)


def _check_fields(query: Any, budget: int, when: str) -> None:
    assert isinstance(query, Query), (
        f"query(key, view) must give a Query, got {type(query).__name__}"
    )
    kinds = (jnp.integer, jnp.integer, jnp.integer, jnp.floating)
    for name, field, kind in zip(Query._fields[:4], query[:4], kinds, strict=True):
        assert field.shape == (budget,), (
            f"{when}, {name} has shape {field.shape} and not that of the budget, "
            f"({budget},)"
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
        f"{when}, it asks for {indices[~is_inside].tolist()}, which are no positions "
        f"in a pool of {_NUM_POOL}"
    )
    assert len(set(indices.tolist())) == budget, (
        f"{when}, it asks for an example more than once: {indices.tolist()}"
    )
    is_unlabeled = np.asarray(view.is_unlabeled)[indices]
    assert is_unlabeled.all(), (
        f"{when}, it asks for {indices[~is_unlabeled].tolist()}, which have labels"
    )
    is_class = (pseudo_labels >= -1) & (pseudo_labels < _NUM_CLASSES)
    assert is_class.all(), (
        f"{when}, its pseudo_labels {pseudo_labels[~is_class].tolist()} are neither -1 "
        f"nor one of {_NUM_CLASSES} classes"
    )
    is_target = (targets >= -1) & (targets < _NUM_VALIDATION)
    assert is_target.all(), (
        f"{when}, its targets {targets[~is_target].tolist()} are neither -1 nor "
        f"positions in a validation set of {_NUM_VALIDATION}"
    )
    is_right = (targets >= 0) & ~np.asarray(view.validation_mistakes)[targets]
    assert not is_right.any(), (
        f"{when}, its targets {targets[is_right].tolist()} are validation examples "
        "that the model gets right"
    )


def _same(query: Query, other: Query, complaint: str) -> None:
    for name, a, b in zip(Query._fields, query, other, strict=True):
        assert _bits(a) == _bits(b), f"{complaint}; the first that differs is {name}"


def _bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def _check_undeclared(
    program: _Program, sees: frozenset[str], query: Query, view: View
) -> list[str]:
    """Even a strategy that is handed everything must use what it declared alone."""
    others = {
        "validation": view.validation[::-1],
        "validation_labels": (view.validation_labels + 1) % _NUM_CLASSES,
        "validation_mistakes": ~view.validation_mistakes,
        "pool_labels": (view.pool_labels + 1) % _NUM_CLASSES,
    }
    undeclared = [name for name in others if name not in sees]
    for name in undeclared:
        _same(
            query,
            program(0, view._replace(**{name: others[name]})),
            f"its query changes with {name!r}, which it does not declare in `sees`",
        )
    if not undeclared:
        return ["no field is undeclared, so that none was changed"]
    return []


def _check_permuted(program: _Program, query: Query, view: View) -> list[str]:
    if any(_bits(program(seed, view)) != _bits(query) for seed in range(1, 9)):
        return ["another key gives another query, so that the pool was not permuted"]
    order = np.random.default_rng(1).permutation(_NUM_POOL)
    permuted = view._replace(
        pool=view.pool[order],
        is_unlabeled=view.is_unlabeled[order],
        pool_labels=view.pool_labels[order],
    )
    other = program(0, permuted)
    before, after = np.asarray(query.indices), order[np.asarray(other.indices)]
    assert before.tolist() == after.tolist(), (
        f"with the pool in another order it asks for {after.tolist()} in place of "
        f"{before.tolist()}, though it draws nothing by lot: break ties by the key"
    )
    for name in ("pseudo_labels", "targets"):
        assert _bits(getattr(query, name)) == _bits(getattr(other, name)), (
            f"with the pool in another order its {name} are others"
        )
    return []


def _check_nan(program: _Program, view: View, budget: int) -> list[str]:
    bad = int(np.flatnonzero(view.is_unlabeled)[1])
    images = jnp.asarray(view.pool).at[bad].set(jnp.nan)
    view = view._replace(pool=images)
    query = program(0, view)
    if query.is_bad is None:
        _check_query(query, view, budget, "with an image of NaN")
        return ["it has no is_bad, so that an image of NaN need not be told"]
    assert bool(query.is_bad[bad]), (
        f"image {bad} of the pool is NaN, and is_bad does not say so: tell NaN scores "
        "and embeddings, or leave is_bad None"
    )
    return []
