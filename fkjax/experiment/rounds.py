"""The round: query -> oracle -> update, as pure functions of a small state."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.acquisition.access import view_for
from fkjax.base import Examples, Model, Query, Strategy, Variables, key_for
from fkjax.experiment import pool as pools
from fkjax.experiment.clock import Clock
from fkjax.experiment.oracle import Oracle
from fkjax.parallel.examples import concatenated
from fkjax.training import evaluation, fit


class RoundState(NamedTuple):
    """All that one round hands to the next.

    Attributes:
        key: the run's key; each round derives its own from it.
        pool: what has been queried and answered.
        variables: the model's.
    """

    key: jax.Array
    pool: pools.PoolState
    variables: Variables


class Arrays(NamedTuple):
    """The images and the labels that are known; the pool's are the oracle's.

    Attributes:
        pool: Shape [N, H, W, channels], as all images.
        validation: what the mistakes are made on.
        selection_images: what `Driver.update` scores epochs on, if it does.
        test_images: reported on, never chosen by.
        validation_labels: Shape [M].
        selection_labels: of the selection images.
        test_labels: of the test images.
    """

    pool: Examples
    validation: Examples
    selection_images: Examples
    test_images: Examples
    validation_labels: jax.Array
    selection_labels: jax.Array
    test_labels: jax.Array


class Record(NamedTuple):
    """What one round did; for runs side by side, each array has a leading axis S.

    Attributes:
        query: what was asked.
        labels: what the oracle said. Shape [B].
        num_mistakes: the validation mistakes that the query started from, or -1 if
            the strategy does not look at them. Shape [].
        confusion: on the test set after training, rows true. Shape [C, C].
        member_accuracy: of each member of an ensemble there. Shape [E], or [0].
        seconds: by phase.
        peak_memory_mb: the most memory that the process held, by phase; that of all
            runs side by side together.
    """

    query: Query
    labels: np.ndarray
    num_mistakes: np.ndarray
    confusion: np.ndarray
    member_accuracy: np.ndarray
    seconds: dict[str, float]
    peak_memory_mb: dict[str, float]

    def of_run(self, i: int, num_runs: int) -> "Record":
        """That of one of S runs side by side, with its share of the seconds."""
        arrays = self._replace(seconds={}, peak_memory_mb={})
        return jax.tree.map(lambda x: x[i], arrays)._replace(
            seconds={phase: s / num_runs for phase, s in self.seconds.items()},
            peak_memory_mb=dict(self.peak_memory_mb),
        )


class NotFiniteError(ArithmeticError):
    """NaN or infinity where numbers are needed; the round is given up.

    Attributes:
        what: a sentence on it, with {} for the examples.
        part: "pool" or "validation".
        positions: of the examples involved, in that part, of each run side by side.
    """

    def __init__(self, what: str, part: str, positions: list[np.ndarray]):
        """Of one run or several."""
        super().__init__(what.format(f"{part} examples {positions}"))
        self.what, self.part, self.positions = what, part, positions


class Driver(NamedTuple):
    """The compiled parts of a round, shared by all rounds, strategies and seeds.

    Attributes:
        query_key: `(state) -> key` of the coming query.
        mistakes: `(variables, arrays) -> [M] bool`.
        update: `(state, arrays, indices, labels) -> state`.
        suspects: `(state, arrays, indices, labels) -> positions [5]`: the labelled
            examples with the highest loss, NaN first, before an `update` with the same
            arguments left what is finite.
        evaluate: `(variables, arrays) -> confusion [C, C], member_accuracy [E]`; the
            latter of an ensemble, else [0].
    """

    query_key: Callable[[RoundState], jax.Array]
    mistakes: Callable[[Variables, Arrays], jax.Array]
    update: Callable[[RoundState, Arrays, jax.Array, jax.Array], RoundState]
    suspects: Callable[[RoundState, Arrays, jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[Variables, Arrays], tuple[jax.Array, jax.Array]]


def make_driver(
    model: Model,
    *,
    schedule: fit.Schedule,
    capacity: int,
    selects_epoch: bool = False,
    trains_on_validation: bool = False,
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit,
) -> Driver:
    """Prepares rounds that train on up to `capacity` labelled examples.

    Args:
        model: the classifier.
        schedule: of each round's training, which starts from the last round's weights.
        capacity: the most of the pool that will ever be labelled.
        trains_on_validation: train on the validation examples as well.
        selects_epoch: keep the epoch with the best accuracy on
            `arrays.selection_images`, not the last.
        compiled: how to compile a part: by `fkjax.parallel.devices.on_all_devices` if
            the images are sharded.
    """

    def query_key(state: RoundState) -> jax.Array:
        return key_for(state.key, "query", state.pool.round)

    def mistakes(variables: Variables, arrays: Arrays) -> jax.Array:
        predicted = evaluation.predictions(model, variables, arrays.validation)
        return predicted != arrays.validation_labels

    def trained(
        state: RoundState,
        arrays: Arrays,
        indices: jax.Array,
        labels: jax.Array,
        score: fit.Score,
    ) -> RoundState:
        pool = pools.add(state.pool, indices, labels)
        chosen, num_labeled = pools.labeled(pool, capacity=capacity)
        known_images = arrays.pool[chosen]
        known_labels = pool.label[chosen]
        if trains_on_validation:  # first: the last of the others may not be labelled
            known_images = concatenated(arrays.validation, known_images)
            known_labels = jnp.concatenate([arrays.validation_labels, known_labels])
            num_labeled += len(arrays.validation_labels)
        variables = fit.fit(
            key_for(state.key, "training", state.pool.round),
            model,
            state.variables,
            known_images,
            known_labels,
            num_labeled,
            schedule=schedule,
            score=score,
        )
        return RoundState(state.key, pool, variables)

    def update(
        state: RoundState, arrays: Arrays, indices: jax.Array, labels: jax.Array
    ) -> RoundState:
        def on_selection(variables: Variables, epoch: jax.Array) -> jax.Array:
            del epoch
            return evaluation.accuracy(
                model.member or model,
                variables,
                arrays.selection_images,
                arrays.selection_labels,
            )

        score = on_selection if selects_epoch else fit.last_epoch
        return trained(state, arrays, indices, labels, score)

    def suspects(
        state: RoundState, arrays: Arrays, indices: jax.Array, labels: jax.Array
    ) -> jax.Array:
        before = trained(state, arrays, indices, labels, fit.last_finite_epoch)
        chosen, num_labeled = pools.labeled(before.pool, capacity=capacity)
        losses = evaluation.losses(
            model,
            before.variables,
            arrays.pool[chosen],
            before.pool.label[chosen],
        )
        losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
        losses = jnp.where(jnp.arange(capacity) < num_labeled, losses, -jnp.inf)
        return chosen[jax.lax.top_k(losses, min(5, len(indices)))[1]]

    def evaluate(variables: Variables, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        images, labels, member = arrays.test_images, arrays.test_labels, model.member
        confusion = evaluation.confusion_matrix(
            labels,
            evaluation.predictions(model, variables, images),
            num_classes=model.num_classes,
        )
        if member is None:
            return confusion, jnp.zeros(0)
        return confusion, jax.lax.map(
            lambda variables: evaluation.accuracy(member, variables, images, labels),
            variables,
        )

    return Driver(*map(compiled, (query_key, mistakes, update, suspects, evaluate)))


def side_by_side(driver: Driver) -> Driver:
    """The parts of S runs as one program each: every array has a leading axis S.

    The `query` of a strategy is to be mapped likewise. That pays on a GPU or a TPU,
    which one small model leaves idle. Sums may be taken in another order than in a run
    alone.
    """
    return Driver(*(jax.jit(jax.vmap(part)) for part in driver))


def play_round(
    driver: Driver,
    strategy: Strategy,
    state: RoundState,
    arrays: Arrays,
    oracle: Oracle,
    *,
    hidden_labels: Callable[[], jax.Array],
) -> tuple[RoundState, Record]:
    """One round: query, ask the oracle, train on everything answered, evaluate.

    Args:
        driver: the compiled parts.
        strategy: with its `query` compiled by `jax.jit`, for speed.
        state: before the round.
        arrays: images and known labels.
        oracle: answers for pool positions.
        hidden_labels: the pool's labels, given to a strategy that declares them.

    Returns:
        The state after the round, and what happened.

    Raises:
        NotFiniteError: if an embedding, a score or the loss is NaN or infinite.
    """
    clock = Clock()
    sees_mistakes = "validation_mistakes" in strategy.sees
    is_mistake = (
        driver.mistakes(state.variables, arrays)
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
        hidden_labels=hidden_labels,
    )
    query = strategy.query(driver.query_key(state), view)
    indices = np.asarray(query.indices)
    for part, bad in (
        ("validation", query.is_bad_validation),
        ("pool", query.is_bad),
    ):
        if bad is not None and np.any(bad):
            positions = list(map(np.flatnonzero, np.atleast_2d(bad)))
            raise NotFiniteError(
                "the embeddings or scores of {} are NaN or infinite", part, positions
            )
    clock.stop("query")
    labels = np.asarray(oracle(indices))
    clock.stop("oracle")
    asked = state, arrays, query.indices, jnp.asarray(labels)
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
    confusion, member_accuracy = map(
        np.asarray, driver.evaluate(state.variables, arrays)
    )
    clock.stop("evaluation")
    num_mistakes = np.asarray(is_mistake.sum(axis=-1))
    if not sees_mistakes:
        num_mistakes = np.full_like(num_mistakes, -1)
    return state, Record(
        query,
        labels,
        num_mistakes,
        confusion,
        member_accuracy,
        clock.seconds,
        clock.peak_memory_mb,
    )


def play(
    driver: Driver,
    strategy: Strategy,
    state: RoundState,
    arrays: Arrays,
    oracle: Oracle,
    *,
    num_rounds: int,
    hidden_labels: Callable[[], jax.Array],
) -> Iterator[tuple[RoundState, Record]]:
    """Plays `num_rounds` rounds, each from the state that the last one left.

    Arguments and what is yielded are those of `play_round`.
    """
    for _ in range(num_rounds):
        state, record = play_round(
            driver, strategy, state, arrays, oracle, hidden_labels=hidden_labels
        )
        yield state, record
