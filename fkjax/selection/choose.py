"""One query of a pool, with ids, names of classes and reasons."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.acquisition import STRATEGIES, Factory, Settings, make_strategy
from fkjax.acquisition.access import view_for
from fkjax.base import (
    Examples,
    Model,
    Query,
    Strategy,
    UserError,
    Variables,
    check_name,
    key_for,
    log_probs,
    seed_key,
)
from fkjax.data.reading import plain_errors
from fkjax.label_shift.correction import corrected
from fkjax.parallel.flags import usual_flags
from fkjax.parallel.mapping import map_examples
from fkjax.selection.arguments import whole
from fkjax.selection.pick import Mistake, Pick, reason_of, reason_of_copy
from fkjax.selection.problem import Problem
from fkjax.training import evaluation

_SHOWN = 20  # ids in one message


class Selection(NamedTuple):
    """The examples chosen by `choose`.

    Attributes:
        picks: examples to label, best first. Length B.
        strategy: name of the strategy.
        indices: positions of the picks in the pool. Shape [B].
        targets: positions of the matched mistakes in the validation set, or -1.
            Shape [B].
        is_mistake: whether the model misclassifies each validation example.
            Shape [M] bool.
        num_unlabeled: number of examples that could be chosen.
        probabilities: probabilities of the classes for each pick, by the model.
            Shape [B, C].
        notes: sentences on the classes that the model or the validation set lacks, and
            on exact copies in the pool.
    """

    picks: list[Pick]
    strategy: str
    indices: np.ndarray
    targets: np.ndarray
    is_mistake: np.ndarray
    num_unlabeled: int
    probabilities: np.ndarray
    notes: Sequence[str] = ()


def choose(
    problem: Problem,
    *,
    budget: int,
    strategy: str | Strategy | Factory = "fisher_nearest",
    seed: int = 0,
    round: int = 0,
) -> Selection:
    """Chooses examples of a pool to label.

    Args:
        problem: pool, validation set and model.
        budget: number of examples to choose, B.
        strategy: name in `fkjax.acquisition.STRATEGIES`, a factory of your own, or a
            strategy made with that budget.
        seed: seed of all random choices.
        round: number of the query; different numbers give different random choices.

    Raises:
        UserError: if the strategy, the budget, the seed or the round is invalid, or an
            embedding or score is NaN or infinite.
    """
    budget, seed, round = (
        whole(number, what)
        for number, what in ((budget, "budget"), (seed, "seed"), (round, "round"))
    )
    if not -(1 << 63) <= seed < 1 << 63:
        raise UserError(f"the seed must be from -2**63 to 2**63 - 1, got {seed}")
    if not 0 <= round < 1 << 32:
        raise UserError(f"the round must be from 0 to 2**32 - 1, got {round}")
    num_unlabeled = int(np.sum(problem.is_unlabeled))
    if not num_unlabeled:
        raise UserError(
            f"all {len(problem.is_unlabeled)} examples of the pool are labeled: add "
            "others, or leave out some labels"
        )
    if not 1 <= budget <= num_unlabeled:
        raise UserError(
            f"the budget must be from 1 to the {num_unlabeled} unlabeled examples of "
            f"the pool, got {budget}"
        )
    name, strategy = _strategy(problem, budget, strategy)
    kept, added, notes = _without_copies(problem, budget)
    query, is_mistake = _ask(
        problem, kept, strategy, key_for(seed_key(seed), "query", round)
    )
    _require_finite(problem, kept, query)
    query = _with_last(query, np.isin(kept[query.indices], added))
    indices, targets = kept[query.indices], np.asarray(query.targets)
    is_added = np.isin(indices, added)
    of_picks = probabilities(problem, problem.pool[indices])
    answered = np.flatnonzero(targets >= 0)
    mistakes: dict[int, Mistake] = {
        int(i): Mistake(
            _plain(problem.validation_ids[int(targets[i])]),
            problem.classes[int(problem.validation_labels[targets[i]])],
            problem.classes[int(predicted)],
        )
        for i, predicted in zip(
            answered, _predicted(problem, targets[answered]), strict=True
        )
    }
    _, place, num_equal = np.unique(
        np.asarray(query.scores), return_inverse=True, return_counts=True
    )
    picks = []
    for i, (index, p) in enumerate(zip(indices, of_picks, strict=True)):
        score, assumed = float(query.scores[i]), int(query.pseudo_labels[i])
        pick = Pick(
            i + 1,
            _plain(problem.pool_ids[int(index)]),
            score if np.isfinite(score) else None,
            problem.classes[assumed] if assumed >= 0 else None,
            mistakes.get(i),
            problem.classes[int(p.argmax())],
            float(p.max()),
            "",
        )
        num_tied = int(num_equal[place[i]]) - 1
        reason = (
            reason_of_copy(pick) if is_added[i] else reason_of(pick, num_tied, name)
        )
        picks.append(pick._replace(reason=reason))
    return Selection(
        picks,
        name,
        indices,
        targets,
        is_mistake,
        num_unlabeled,
        of_picks,
        [*problem.notes, *notes],
    )


def _without_copies(
    problem: Problem, budget: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Leaves the copies out of the pool, except those that the budget needs.

    Returns:
        The positions of the examples that the strategy sees, those of the copies that
        are needed, and sentences on the copies.
    """
    nothing = np.zeros(0, int)
    if problem.copies is None:
        return np.arange(len(problem.pool_ids)), nothing, []
    is_skipped = problem.copies.skipped(problem.is_unlabeled)
    notes = problem.copies.notes(problem.is_unlabeled)
    num_different = int(np.sum(problem.is_unlabeled & ~is_skipped))
    added = np.flatnonzero(is_skipped)[: max(0, budget - num_different)]
    is_skipped[added] = False
    if len(added):
        notes.append(
            f"the budget exceeds the {num_different:,} other examples, so that "
            f"{len(added):,} of these copies are queried, too"
        )
    return np.flatnonzero(~is_skipped), added, notes


def _with_last(query: Query, is_last: np.ndarray) -> Query:
    """Moves some examples of a query to its end."""
    order = np.argsort(is_last, kind="stable")
    parts = ("indices", "pseudo_labels", "targets", "scores")
    return query._replace(**{name: getattr(query, name)[order] for name in parts})


def _plain(example: Any) -> Any:
    """Converts an id of NumPy's types to a Python object."""
    return example.item() if isinstance(example, np.generic) else example


def _strategy(
    problem: Problem, budget: int, strategy: str | Strategy | Factory
) -> tuple[str, Strategy]:
    name = strategy if isinstance(strategy, str) else "a strategy of your own"
    if isinstance(strategy, Strategy):
        strategy = strategy._replace(query=jax.jit(strategy.query))
    else:
        if isinstance(strategy, str):
            check_name(strategy, STRATEGIES, "strategy")
            strategy = STRATEGIES[strategy]
        elif not callable(strategy):
            raise UserError(
                "the strategy must be a name, a factory or a Strategy, got "
                f"{type(strategy).__name__}"
            )
        settings = Settings(
            taps=tuple(problem.taps),
            budget=budget,
            kernel=problem.kernel,
            batch_size=problem.batch_size,
            is_trained=problem.is_trained,
            trains_on_validation=problem.trained_on_validation,
        )
        strategy = _compiled(strategy, problem.model, settings)
    if "pool_labels" in strategy.sees:
        raise UserError(
            f"{name} uses the hidden labels of the pool, which are only known in "
            "experiments: choose another strategy"
        )
    if (
        "validation_mistakes" in strategy.sees
        and problem.trained_on_validation
        and problem.held_out is None
    ):
        raise UserError(
            f"{name} uses the model's mistakes on the validation set, which say "
            "nothing if it was trained on that set: choose another strategy, such as "
            "margin, or give a model that was trained without it"
        )
    return name, strategy


def _ask(
    problem: Problem, kept: np.ndarray, strategy: Strategy, key: jax.Array
) -> tuple[Query, np.ndarray]:
    pool, is_unlabeled = problem.pool, problem.is_unlabeled
    with plain_errors(problem.pool, problem.validation), usual_flags():
        if len(kept) < len(pool):
            pool, is_unlabeled = pool[kept], is_unlabeled[kept]
        held_out, labels = problem.held_out, problem.labels
        if held_out is None:
            predicted = _predictions(problem.model)(
                problem.variables, problem.validation
            )
        else:
            predicted = held_out.predictions
        is_mistake = predicted != problem.validation_labels
        view = view_for(
            strategy,
            variables=problem.variables,
            pool=pool,
            is_unlabeled=jnp.asarray(is_unlabeled),
            validation=problem.validation,
            validation_labels=jnp.asarray(problem.validation_labels),
            validation_mistakes=is_mistake,
            labels=None if labels is None else jnp.asarray(labels[kept]),
            correction=held_out.correction if held_out else None,
            hidden_labels=lambda: jnp.zeros(0, jnp.int32),
        )
        query = jax.device_get(strategy.query(key, view))
    return query, np.asarray(is_mistake)


# Compiled functions are cached for the next query of the same model.


@functools.lru_cache(maxsize=8)
def _compiled(factory: Factory, model: Model, settings: Settings) -> Strategy:
    strategy = make_strategy(factory, model, settings)
    return strategy._replace(query=jax.jit(strategy.query))


@functools.lru_cache(maxsize=8)
def _predictions(model: Model) -> Callable[[Variables, Examples], jax.Array]:
    return jax.jit(functools.partial(evaluation.predictions, model))


@functools.lru_cache(maxsize=8)
def _log_probs(model: Model, batch_size: int) -> Callable[..., jax.Array]:
    def of_images(variables: Variables, images: Examples) -> jax.Array:
        def one(image: jax.Array) -> jax.Array:
            return log_probs(model, variables, image)

        return map_examples(one, images, batch_size=batch_size)

    return jax.jit(of_images)


def _require_finite(problem: Problem, kept: np.ndarray, query: Query) -> None:
    for part, ids, is_bad, is_used in (
        ("validation", problem.validation_ids, query.is_bad_validation, True),
        ("pool", problem.pool_ids, query.is_bad, problem.is_unlabeled[kept]),
    ):
        if is_bad is not None and np.any(is_bad & is_used):
            bad = np.flatnonzero(is_bad & is_used)
            bad = kept[bad] if part == "pool" else bad
            shown = ", ".join(str(ids[int(i)]) for i in bad[:_SHOWN])
            raise UserError(
                f"the embeddings or scores of {len(bad)} {part} example(s) are NaN or "
                f"infinite (ids {shown}{', ...' if len(bad) > _SHOWN else ''}): fix or "
                "remove them"
            )


def probabilities(problem: Problem, images: Examples) -> np.ndarray:
    """Computes p(y | x) of examples, with the prior correction. Shape [n, C]."""
    if len(images) == 0:
        return np.zeros((0, len(problem.classes)))

    of_images = _log_probs(problem.model, problem.batch_size)
    with plain_errors(images):
        found = of_images(problem.variables, images)
    if problem.held_out is not None:
        found = corrected(problem.held_out.correction, found)
    return np.exp(found)


def _predicted(problem: Problem, targets: np.ndarray) -> np.ndarray:
    """Returns the classes predicted for some validation examples. Shape [n]."""
    if problem.held_out is not None:
        return np.asarray(problem.held_out.predictions)[targets]
    return probabilities(problem, problem.validation[targets]).argmax(axis=1)
