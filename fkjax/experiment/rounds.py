"""Rounds of query, oracle and update, as pure functions of a small state."""

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
    """The state from which a round starts.

    Attributes:
        key: PRNG key of the run, from which each round derives its keys.
        pool: queried examples and their labels.
        variables: variables of the model.
    """

    key: jax.Array
    pool: pools.PoolState
    variables: Variables


class Arrays(NamedTuple):
    """The images of a run and the known labels; those of the pool are hidden.

    Attributes:
        pool: images of the pool. Shape [N, H, W, channels].
        validation: images of the validation set. Shape [M, H, W, channels].
        selection_images: images on which `Driver.update` selects an epoch, if it does.
        test_images: images of the test set, which are used for evaluation only.
        validation_labels: labels of the validation set. Shape [M].
        selection_labels: labels of the selection images.
        test_labels: labels of the test set.
    """

    pool: Examples
    validation: Examples
    selection_images: Examples
    test_images: Examples
    validation_labels: jax.Array
    selection_labels: jax.Array
    test_labels: jax.Array


class RoundResult(NamedTuple):
    """The results of one round; those of runs side by side have a leading axis S.

    Attributes:
        query: query of the round.
        labels: labels given by the oracle. Shape [B].
        num_mistakes: number of validation mistakes before the query, or -1 if the
            strategy does not use them. Shape [].
        confusion: confusion matrix on the test set after training, with a row for each
            true class. Shape [C, C].
        member_accuracy: test accuracy of each member of an ensemble. Shape [E], or [0]
            for a single model.
        seconds: seconds of each phase.
        peak_memory_mb: peak memory of the process in each phase, in MB; for runs side
            by side, that of all together.
    """

    query: Query
    labels: np.ndarray
    num_mistakes: np.ndarray
    confusion: np.ndarray
    member_accuracy: np.ndarray
    seconds: dict[str, float]
    peak_memory_mb: dict[str, float]

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


class Driver(NamedTuple):
    """The compiled parts of a round, shared by all rounds, strategies and seeds.

    Attributes:
        query_key: `(state) -> key`: key of the next query.
        mistakes: `(variables, arrays) -> [M] bool`: mistakes on the validation set.
        update: `(state, arrays, indices, labels) -> state`: training with new labels.
        suspects: `(state, arrays, indices, labels) -> positions [5]`: labeled examples
            with the highest loss, NaN first, in the last finite epoch of an `update`
            with the same arguments.
        evaluate: `(variables, arrays) -> confusion [C, C], member_accuracy [E]`: test
            results; `member_accuracy` has shape [0] for a single model.
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
    """Makes the compiled parts of rounds that label up to `capacity` examples.

    Args:
        model: classifier.
        schedule: schedule of training in each round, which starts from the weights of
            the previous round.
        capacity: largest number of examples of the pool that a run labels.
        trains_on_validation: whether to train on the validation set, too.
        selects_epoch: whether to keep the epoch with the best accuracy on
            `arrays.selection_images` instead of the last.
        compiled: function that compiles a part, such as
            `fkjax.parallel.devices.on_all_devices` for sharded images.
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
        if trains_on_validation:  # first: the last of the others may be padding
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
    """Compiles the parts of S runs to one program each, for arrays of leading axis S.

    The `query` of a strategy must be mapped in the same way. This is faster on a GPU or
    TPU, which one small model does not keep busy. Sums may be computed in another order
    than in a single run.
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
    return state, RoundResult(
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
) -> Iterator[tuple[RoundState, RoundResult]]:
    """Runs `num_rounds` rounds, each from the state after the previous one.

    The other arguments are those of `play_round`, whose results are yielded.
    """
    for _ in range(num_rounds):
        state, record = play_round(
            driver, strategy, state, arrays, oracle, hidden_labels=hidden_labels
        )
        yield state, record
