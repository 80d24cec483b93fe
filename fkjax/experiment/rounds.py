"""Rounds of query, oracle and update."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.acquisition.access import view_for
from fkjax.base import PriorCorrection, Query, Strategy
from fkjax.experiment.clock import Clock
from fkjax.experiment.driver import Arrays, Driver, RoundState
from fkjax.experiment.oracle import Oracle
from fkjax.training import fit


class RoundResult(NamedTuple):
    """The results of one round; those of runs side by side have a leading axis S.

    Attributes:
        query: query of the round.
        labels: labels given by the oracle. Shape [B].
        num_mistakes: number of validation mistakes before the query, or -1 if the
            strategy does not use them. Shape [].
        confusion: confusion matrix on the test set after training, with a row for each
            true class; of the corrected predictions if there is a correction. Shape
            [C, C].
        member_accuracy: test accuracy of each member of an ensemble. Shape [E], or [0]
            for a single model.
        seconds: seconds of each phase.
        peak_memory_mb: peak memory of the process in each phase, in MB; for runs side
            by side, that of all together.
        uncorrected: confusion matrix of the uncorrected predictions. Shape [C, C].
        correction: correction after training; None if `RoundState.held_out` is.
    """

    query: Query
    labels: np.ndarray
    num_mistakes: np.ndarray
    confusion: np.ndarray
    member_accuracy: np.ndarray
    seconds: dict[str, float]
    peak_memory_mb: dict[str, float]
    uncorrected: np.ndarray
    correction: PriorCorrection | None

    def of_run(self, i: int, num_runs: int) -> "RoundResult":
        """Returns the result of one of `num_runs` runs side by side.

        Each run has an equal share of the seconds.
        """
        arrays = self._replace(seconds={}, peak_memory_mb={})
        return jax.tree.map(lambda x: x[i], arrays)._replace(
            seconds={phase: s / num_runs for phase, s in self.seconds.items()},
            peak_memory_mb=dict(self.peak_memory_mb),
        )


class NotFiniteError(ArithmeticError):
    """Raised if a number is NaN or infinite, which ends the round.

    Attributes:
        what: description of the error, with {} in place of the examples.
        part: set of the examples, "pool" or "validation".
        positions: positions of the examples in that set, for each run side by side.
    """

    def __init__(self, what: str, part: str, positions: list[np.ndarray]):
        """Describes the error; the arguments are the attributes."""
        super().__init__(what.format(f"{part} examples {positions}"))
        self.what, self.part, self.positions = what, part, positions


def play_round(
    driver: Driver,
    strategy: Strategy,
    state: RoundState,
    arrays: Arrays,
    oracle: Oracle,
    *,
    hidden_labels: Callable[[], jax.Array],
) -> tuple[RoundState, RoundResult]:
    """Runs one round: query, labeling by the oracle, training and evaluation.

    Args:
        driver: compiled parts of a round.
        strategy: strategy, whose `query` should be compiled for speed.
        state: state before the round.
        arrays: images and known labels.
        oracle: oracle that labels positions of the pool.
        hidden_labels: function that returns the labels of the pool, called only if the
            strategy declares them.

    Returns:
        The state after the round, and its result.

    Raises:
        NotFiniteError: if an embedding, a score or the loss is NaN or infinite.
    """
    clock = Clock()
    sees_mistakes = "validation_mistakes" in strategy.sees
    is_mistake = (
        driver.mistakes(state, arrays)
        if sees_mistakes
        else jnp.zeros_like(arrays.validation_labels, bool)
    )
    view = view_for(
        strategy,
        variables=state.variables,
        pool=arrays.pool,
        is_unlabeled=state.pool.is_unlabeled,
        validation=arrays.validation,
        validation_labels=arrays.validation_labels,
        validation_mistakes=is_mistake,
        labels=state.pool.label,
        correction=state.held_out.correction if state.held_out else None,
        hidden_labels=hidden_labels,
    )
    query = strategy.query(driver.query_key(state._replace(held_out=None)), view)
    indices = np.asarray(query.indices)
    for part, bad in (
        ("validation", query.is_bad_validation),
        ("pool", query.is_bad),
    ):
        if bad is not None and np.any(bad):
            raise NotFiniteError(
                "the embeddings or scores of {} are NaN or infinite",
                part,
                _positions(bad),
            )
    clock.stop("query")
    labels = np.asarray(oracle(indices))
    clock.stop("oracle")
    num_mistakes = np.asarray(is_mistake.sum(axis=-1))
    if not sees_mistakes:
        num_mistakes = np.full_like(num_mistakes, -1)
    asked = state._replace(held_out=None), arrays, query.indices, jnp.asarray(labels)
    state = jax.block_until_ready(driver.update(*asked))
    if not fit.is_finite(state.variables):
        positions = list(np.atleast_2d(driver.suspects(*asked)))
        raise NotFiniteError(
            "training led to NaN or infinity, and before that the loss was highest on "
            "{}",
            "pool",
            positions,
        )
    clock.stop("training")
    return _concluded(driver, state, arrays, query, labels, num_mistakes, clock)


def first_round(
    driver: Driver, state: RoundState, arrays: Arrays, *, budget: int
) -> tuple[RoundState, RoundResult]:
    """Trains on the validation set alone: round 0 of a run that trains on it.

    Args:
        driver: compiled parts of a round.
        state: state before any label.
        arrays: images and known labels.
        budget: number of examples that later rounds query, whose compiled training this
            round shares.

    Returns:
        The state after the round, and its result, whose query is empty.

    Raises:
        UserError: if training leads to NaN or infinity.
        NotFiniteError: if training without a part of the validation set does.
    """
    clock = Clock()
    *seeds, num = state.pool.label.shape
    nobody, unknown = (jnp.full((*seeds, budget), x, jnp.int32) for x in (num, -1))
    state = jax.block_until_ready(driver.update(state, arrays, nobody, unknown))
    fit.require_finite(state.variables, "training on the validation set")
    clock.stop("training")
    nothing = jnp.zeros((*seeds, 0), jnp.int32)
    query = Query(nothing, nothing, nothing, jnp.zeros((*seeds, 0)))
    not_used = np.full(seeds, -1)
    return _concluded(
        driver, state, arrays, query, np.asarray(nothing), not_used, clock
    )


def _concluded(
    driver: Driver,
    state: RoundState,
    arrays: Arrays,
    query: Query,
    labels: np.ndarray,
    num_mistakes: np.ndarray,
    clock: Clock,
) -> tuple[RoundState, RoundResult]:
    """Holds out and evaluates after the training of a round."""
    held_out = jax.block_until_ready(driver.hold_out(state, arrays))
    if held_out is not None:
        is_bad = ~np.isfinite(held_out.log_probs).all(axis=-1)
        if is_bad.any():
            raise NotFiniteError(
                "the held-out predictions of {} are NaN or infinite",
                "validation",
                _positions(is_bad),
            )
        clock.stop("held_out")
    state = state._replace(held_out=held_out)
    confusion, uncorrected, member_accuracy = map(
        np.asarray, driver.evaluate(state, arrays)
    )
    clock.stop("evaluation")
    return state, RoundResult(
        query,
        labels,
        num_mistakes,
        confusion,
        member_accuracy,
        clock.seconds,
        clock.peak_memory_mb,
        uncorrected,
        jax.device_get(held_out.correction) if held_out else None,
    )


def _positions(mask: Any) -> list[np.ndarray]:
    """Returns the positions in a mask, for each run side by side."""
    return list(map(np.flatnonzero, np.atleast_2d(mask)))


def play(
    driver: Driver,
    strategy: Strategy,
    state: RoundState,
    arrays: Arrays,
    oracle: Oracle,
    *,
    num_rounds: int,
    hidden_labels: Callable[[], jax.Array],
) -> Iterator[tuple[RoundState, RoundResult]]:
    """Runs `num_rounds` rounds, each from the state after the previous one.

    The other arguments are those of `play_round`, whose results are yielded.
    """
    for _ in range(num_rounds):
        state, record = play_round(
            driver, strategy, state, arrays, oracle, hidden_labels=hidden_labels
        )
        yield state, record
