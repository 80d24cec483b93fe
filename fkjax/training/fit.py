"""Fit a model to the labelled set, as one compiled program of any number of steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fkjax.base import Examples, Model, Variables, key_for
from fkjax.models.dropout import dropout
from fkjax.models.ensemble import each_member
from fkjax.parallel.examples import take


class Schedule(NamedTuple):
    """How a model is trained (Gudovskiy et al. 2020, Sec. 5; MNIST by default).

    Attributes:
        epochs: passes over the examples.
        batch_size: examples a step.
        learning_rate: of stochastic gradient descent.
        momentum: of the same.
        weight_decay: added to the gradient, times the weights.
        decay_every: epochs after which the learning rate drops to a tenth, again
            and again.
    """

    epochs: int = 50
    batch_size: int = 25
    learning_rate: float = 0.05
    momentum: float = 0.5
    weight_decay: float = 0.0
    decay_every: int = 15


Score = Callable[[Variables, jax.Array], jax.Array]
"""`score(variables, epoch)`: the epoch that scores highest, or first so, is kept."""


def last_finite_epoch(variables: Variables, epoch: jax.Array) -> jax.Array:
    """The score under which the last epoch without a NaN or infinity is kept."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)]
    return jnp.where(jnp.stack(finite).all(), last_epoch(variables, epoch), -jnp.inf)


def last_epoch(variables: Variables, epoch: jax.Array) -> jax.Array:
    """The score under which the last epoch is kept."""
    del variables
    return epoch.astype(jnp.float32)


def cross_entropy(
    variables: Variables,
    key: jax.Array,
    model: Model,
    examples: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, Any]:
    """Mean of -log p(label | example) under the weights, in training mode.

    Args:
        variables: the model's.
        key: draws the dropout.
        model: the classifier.
        examples: Shape [N, H, W, channels].
        labels: Shape [N].
        weights: of the examples. One of weight 0 counts for nothing: neither for the
            mean nor for the batch statistics. Shape [N].

    Returns:
        The mean, of shape [], and the running statistics after this pass.
    """
    tap, statistics = dropout(key, dict(model.dropout)), variables.statistics
    if model.apply_training is None:
        logits = model.apply(variables, examples, tap)
    else:
        logits, statistics = model.apply_training(variables, examples, tap, weights > 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (losses * weights).sum() / jnp.maximum(weights.sum(), 1), statistics


def sgd_step(
    key: jax.Array,
    model: Model,
    schedule: Schedule,
    variables: Variables,
    state: optax.OptState,
    epoch: jax.Array,
    examples: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> tuple[Variables, optax.OptState]:
    """One step of the parameters down `cross_entropy`, at the epoch's learning rate.

    Args:
        key: draws the dropout.
        model: the classifier.
        schedule: rates.
        variables: before the step.
        state: of `sgd(schedule)`, for the parameters.
        epoch: Shape [].
        examples: Shape [N, H, W, channels].
        labels: Shape [N].
        weights: of the examples. Shape [N].

    Returns:
        The variables and the state after the step.
    """
    parameters, statistics = variables

    def loss(parameters: Any) -> tuple[jax.Array, Any]:
        variables = Variables(parameters, statistics)
        return cross_entropy(variables, key, model, examples, labels, weights)

    gradient, statistics = jax.grad(loss, has_aux=True)(parameters)
    rate = schedule.learning_rate * 0.1 ** (epoch // schedule.decay_every)
    updates, state = sgd(schedule).update(gradient, state, parameters)
    updates = jax.tree.map(lambda u: -rate * u, updates)
    parameters = optax.apply_updates(parameters, updates)
    return Variables(parameters, statistics), state


def sgd(schedule: Schedule) -> optax.GradientTransformation:
    """The direction of the schedule's steps; `sgd_step` gives them their length."""
    return optax.chain(
        optax.add_decayed_weights(schedule.weight_decay),
        optax.trace(decay=schedule.momentum),
    )


def fit(
    key: jax.Array,
    model: Model,
    variables: Variables,
    examples: Examples,
    labels: jax.Array,
    num_labeled: jax.Array,
    *,
    schedule: Schedule,
    score: Score = last_epoch,
) -> Variables:
    """Trains on the first `num_labeled` examples, in a new order each epoch.

    The arrays have room for more than are labelled, so that one compilation serves
    all rounds. The last batch of an epoch may be smaller: it is filled up with examples
    of weight 0, which batch normalisation leaves out too.

    Args:
        key: gives each epoch's order and each step's dropout.
        model: the classifier.
        variables: where to start from.
        examples: Shape [capacity, H, W, channels].
        labels: Shape [capacity].
        num_labeled: how many of them count. Shape [].
        schedule: epochs, batches and rates.
        score: which epoch to keep; of an ensemble, each member its own.

    Returns:
        The variables of the kept epoch: its parameters and its running statistics.
    """
    if model.member is not None:
        member = model.member
        return each_member(
            lambda key, variables: fit(
                key,
                member,
                variables,
                examples,
                labels,
                num_labeled,
                schedule=schedule,
                score=score,
            ),
            key,
            variables,
        )
    capacity, size = len(labels), schedule.batch_size
    padding = -capacity % size

    def train_epoch(epoch: jax.Array, state: tuple) -> tuple:
        order_by = jax.random.uniform(
            key_for(key, "order", epoch), (capacity,), jnp.float32
        )
        order_by = jnp.where(jnp.arange(capacity) < num_labeled, order_by, jnp.inf)
        order = jnp.pad(jnp.argsort(order_by), (0, padding))
        num_steps = (num_labeled + size - 1) // size

        def step(i: jax.Array, state: tuple) -> tuple:
            variables, optimizer_state = state
            batch = jax.lax.dynamic_slice_in_dim(order, i * size, size)
            then = jax.lax.dynamic_slice_in_dim(order, (i + 1) * size, size)
            weights = (i * size + jnp.arange(size) < num_labeled).astype(jnp.float32)
            return sgd_step(
                key_for(key, "dropout", epoch, i),
                model,
                schedule,
                variables,
                optimizer_state,
                epoch,
                take(examples, batch, jnp.where(i + 1 < num_steps, then, -1)),
                labels[batch],
                weights,
            )

        variables, optimizer_state, kept, best = state
        variables, optimizer_state = jax.lax.fori_loop(
            0, num_steps, step, (variables, optimizer_state)
        )
        value = score(variables, epoch).astype(jnp.float32)
        kept = jax.tree.map(
            lambda new, old: jnp.where(value > best, new, old), variables, kept
        )
        return variables, optimizer_state, kept, jnp.maximum(value, best)

    start = (
        variables,
        sgd(schedule).init(variables.parameters),
        variables,
        jnp.float32(-jnp.inf),
    )
    return jax.lax.fori_loop(0, schedule.epochs, train_epoch, start)[2]
