"""The state of a run, and the compiled parts of its rounds, as pure functions of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import Examples, Model, Variables, key_for, log_probs
from fkjax.experiment import pool as pools
from fkjax.experiment.held_out import NO_RULE, CorrectionRule, HeldOut, hold_out
from fkjax.label_shift.correction import corrected
from fkjax.parallel.examples import concatenated
from fkjax.parallel.mapping import map_examples
from fkjax.training import evaluation, fit, folds


class RoundState(NamedTuple):
    """The state from which a round starts.

    Attributes:
        key: PRNG key of the run, from which each round derives its keys.
        pool: queried examples and their labels.
        variables: variables of the model.
        held_out: held-out predictions for the validation set, and the correction that
            they choose; None if the run neither trains on that set nor corrects.
    """

    key: jax.Array
    pool: pools.PoolState
    variables: Variables
    held_out: HeldOut | None = None


class Arrays(NamedTuple):
    """The images of a run and the known labels; those of the pool are hidden.

    `start` is there only if a run trains on the validation set.

    Attributes:
        pool: images of the pool. Shape [N, H, W, channels].
        validation: images of the validation set. Shape [M, H, W, channels].
        selection_images: images on which `Driver.update` selects an epoch, if it does.
        test_images: images of the test set, which are used for evaluation only.
        validation_labels: labels of the validation set. Shape [M].
        selection_labels: labels of the selection images.
        test_labels: labels of the test set.
        start: variables before any label, from which the models of the folds of the
            validation set start.
    """

    pool: Examples
    validation: Examples
    selection_images: Examples
    test_images: Examples
    validation_labels: jax.Array
    selection_labels: jax.Array
    test_labels: jax.Array
    start: Variables | None = None


class Driver(NamedTuple):
    """The compiled parts of a round, shared by all rounds, strategies and seeds.

    Attributes:
        query_key: `(state) -> key`: key of the next query.
        mistakes: `(state, arrays) -> [M] bool`: mistakes on the validation set, of the
            held-out predictions if there are any.
        update: `(state, arrays, indices, labels) -> state`: training with new labels.
            It does not read `state.held_out`, which is None in the result.
        suspects: `(state, arrays, indices, labels) -> positions [5]`: labeled examples
            with the highest loss, NaN first, in the last finite epoch of an `update`
            with the same arguments.
        hold_out: `(state, arrays) -> held_out`: the held-out predictions of a state,
            and the correction that they choose; None if they are not used.
        evaluate: `(state, arrays) -> confusion [C, C], uncorrected [C, C],
            member_accuracy [E]`: test results; `member_accuracy`, which is not
            corrected, has shape [0] for a single model.
    """

    query_key: Callable[[RoundState], jax.Array]
    mistakes: Callable[[RoundState, Arrays], jax.Array]
    update: Callable[[RoundState, Arrays, jax.Array, jax.Array], RoundState]
    suspects: Callable[[RoundState, Arrays, jax.Array, jax.Array], jax.Array]
    hold_out: Callable[[RoundState, Arrays], HeldOut | None]
    evaluate: Callable[[RoundState, Arrays], tuple[jax.Array, jax.Array, jax.Array]]


def make_driver(
    model: Model,
    *,
    schedule: fit.Schedule,
    capacity: int,
    selects_epoch: bool = False,
    trains_on_validation: bool = False,
    correction: CorrectionRule = NO_RULE,
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit,
) -> Driver:
    """Makes the compiled parts of rounds that label up to `capacity` examples.

    Args:
        model: classifier.
        schedule: schedule of training in each round, which starts from the weights of
            the previous round.
        capacity: largest number of examples of the pool that a run labels.
        selects_epoch: whether to keep the epoch with the best accuracy on
            `arrays.selection_images` instead of the last.
        trains_on_validation: whether to train on the validation set, too.
        correction: rule by which the prior correction is chosen.
        compiled: function that compiles a part, such as
            `fkjax.parallel.devices.on_all_devices` for sharded images.
    """

    def query_key(state: RoundState) -> jax.Array:
        return key_for(state.key, "query", state.pool.round)

    def mistakes(state: RoundState, arrays: Arrays) -> jax.Array:
        if state.held_out is None:
            predicted = evaluation.predictions(
                model, state.variables, arrays.validation
            )
        else:
            predicted = state.held_out.predictions
        return predicted != arrays.validation_labels

    def training_set(
        pool: pools.PoolState, arrays: Arrays
    ) -> tuple[Examples, jax.Array, jax.Array]:
        """Returns images and labels, then padding; and the number of images."""
        chosen, num_labeled = pools.labeled(pool, capacity=capacity)
        known_images = arrays.pool[chosen]
        known_labels = pool.label[chosen]
        if trains_on_validation:  # first: the last of the others may be padding
            known_images = concatenated(arrays.validation, known_images)
            known_labels = jnp.concatenate([arrays.validation_labels, known_labels])
            num_labeled += len(arrays.validation_labels)
        return known_images, known_labels, num_labeled

    def trained(
        state: RoundState,
        arrays: Arrays,
        indices: jax.Array,
        labels: jax.Array,
        score: fit.Score,
    ) -> RoundState:
        pool = pools.add(state.pool, indices, labels)
        variables = fit.fit(
            key_for(state.key, "training", state.pool.round),
            model,
            state.variables,
            *training_set(pool, arrays),
            schedule=schedule,
            score=score,
        )
        return RoundState(state.key, pool, variables)

    def score_of(arrays: Arrays) -> fit.Score:
        def on_selection(variables: Variables, epoch: jax.Array) -> jax.Array:
            del epoch
            return evaluation.accuracy(
                model.member or model,
                variables,
                arrays.selection_images,
                arrays.selection_labels,
            )

        return on_selection if selects_epoch else fit.last_epoch

    def update(
        state: RoundState, arrays: Arrays, indices: jax.Array, labels: jax.Array
    ) -> RoundState:
        return trained(state, arrays, indices, labels, score_of(arrays))

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

    def held_out(state: RoundState, arrays: Arrays) -> HeldOut | None:
        if not trains_on_validation and correction.kind == "none":
            return None
        known = state.pool.label
        if trains_on_validation:
            assert arrays.start is not None
            known = jnp.concatenate([arrays.validation_labels, known])
            log_probs_of_validation = folds.out_of_fold(
                key_for(state.key, "folds", state.pool.round),
                model,
                arrays.start,
                *training_set(state.pool, arrays),
                arrays.validation,
                schedule=schedule,
                score=score_of(arrays),
            )
        else:
            log_probs_of_validation = map_examples(
                lambda image: log_probs(model, state.variables, image),
                arrays.validation,
                batch_size=100,
            )
        return hold_out(
            correction, log_probs_of_validation, arrays.validation_labels, known
        )

    def evaluate(
        state: RoundState, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        variables, member = state.variables, model.member
        images, labels = arrays.test_images, arrays.test_labels
        uncorrected = evaluation.predictions(model, variables, images)
        deployed = uncorrected
        if state.held_out is not None:
            found = state.held_out.correction

            def predict(image: jax.Array) -> jax.Array:
                return corrected(found, log_probs(model, variables, image)).argmax()

            deployed = map_examples(predict, images, batch_size=100)
        accuracy = jnp.zeros(0)
        if member is not None:
            accuracy = jax.lax.map(
                lambda variables: evaluation.accuracy(
                    member, variables, images, labels
                ),
                variables,
            )

        def confusion(predicted: jax.Array) -> jax.Array:
            return evaluation.confusion_matrix(
                labels, predicted, num_classes=model.num_classes
            )

        return confusion(deployed), confusion(uncorrected), accuracy

    parts = query_key, mistakes, update, suspects, held_out, evaluate
    return Driver(*map(compiled, parts))


def side_by_side(driver: Driver) -> Driver:
    """Compiles the parts of S runs to one program each, for arrays of leading axis S.

    The `query` of a strategy must be mapped in the same way. This is faster on a GPU or
    TPU, which one small model does not keep busy. Sums may be computed in another order
    than in a single run.
    """
    return Driver(*(jax.jit(jax.vmap(part)) for part in driver))
