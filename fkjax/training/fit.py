"""Training of a model on the labeled set, as one compiled program.

The number of training steps is not part of the program, so that one compilation serves
labeled sets of different sizes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fkjax.base import Examples, Model, UserError, Variables, key_for, widened
from fkjax.models.dropout import dropout
from fkjax.models.ensemble import each_member
from fkjax.parallel.examples import take


class Schedule(NamedTuple):
    """The hyperparameters of training by stochastic gradient descent.

    The defaults are those for MNIST of Gudovskiy et al. 2020, Sec. 5.

    Attributes:
        epochs: number of passes over the examples.
        batch_size: number of examples in one step.
        learning_rate: learning rate of the first epoch.
        momentum: momentum.
        weight_decay: coefficient of the weights, which are added to the gradient.
        decay_every: interval in epochs at which the learning rate is divided by ten.
    """

    epochs: int = 50
    batch_size: int = 25
    learning_rate: float = 0.05
    momentum: float = 0.5
    weight_decay: float = 0.0
    decay_every: int = 15


Score = Callable[[Variables, jax.Array], jax.Array]
"""`score(variables, epoch)`: the epoch with the highest score is kept.

Of several epochs with the highest score, the first is kept.
"""


def last_finite_epoch(variables: Variables, epoch: jax.Array) -> jax.Array:
    """Scores an epoch so that the last one whose variables are all finite is kept."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)]
    return jnp.where(jnp.stack(finite).all(), last_epoch(variables, epoch), -jnp.inf)


def is_finite(variables: Variables) -> bool:
    """Returns whether no variable is NaN or infinite."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def require_finite(variables: Variables, what: str) -> None:
    """Raises an error if a variable is NaN or infinite.

    Args:
        variables: variables of a model after training.
        what: name of the training in the message.

    Raises:
        UserError: if a variable is NaN or infinite.
    """
    if not is_finite(variables):
        raise UserError(
            f"{what} led to NaN or infinity: lower --learning-rate, or use "
            "--precision float64"
        )


def last_epoch(variables: Variables, epoch: jax.Array) -> jax.Array:
    """Scores an epoch so that the last one is kept."""
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
    """Computes the weighted mean of -log p(label | example), in training mode.

    Args:
        variables: the variables of the model.
        key: random key of the dropout masks.
        model: the classifier.
        examples: the examples. Shape [N, H, W, channels].
        labels: the labels of the examples. Shape [N].
        weights: the weights of the examples. An example of weight 0 contributes neither
            to the mean nor to the batch statistics. Shape [N].

    Returns:
        The mean, of shape [], and the running statistics after this pass.
    """
    tap, statistics = dropout(key, dict(model.dropout)), variables.statistics
    if model.apply_training is None:
        logits = model.apply(variables, examples, tap)
    else:
        logits, statistics = model.apply_training(variables, examples, tap, weights > 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(widened(logits), labels)
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
    """Takes one gradient step on `cross_entropy` at the learning rate of the epoch.

    Args:
        key: random key of the dropout masks.
        model: the classifier.
        schedule: the training hyperparameters.
        variables: the variables before the step.
        state: the state of `sgd(schedule)` for the parameters.
        epoch: index of the epoch, from 0. Shape [].
        examples: the examples of the batch. Shape [N, H, W, channels].
        labels: the labels of the examples. Shape [N].
        weights: the weights of the examples. Shape [N].

    Returns:
        The variables and the optimizer state after the step.
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
    """Returns the gradient transformation of a schedule, without its learning rate.

    `sgd_step` multiplies the updates by the learning rate.
    """
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
    """Trains a model on the first `num_labeled` examples, reshuffled in each epoch.

    The arrays have the same capacity in all rounds, so that one compilation serves all
    of them. If the last batch of an epoch is smaller than the others, it is padded with
    examples of weight 0, which batch normalization ignores as well.

    Args:
        key: random key of the order of the examples and of the dropout masks.
        model: the classifier.
        variables: the initial variables.
        examples: the labeled examples, then padding. Shape [capacity, H, W, channels].
        labels: the labels of the examples. Shape [capacity].
        num_labeled: number of labeled examples. Shape [].
        schedule: the training hyperparameters.
        score: function that selects the epoch to keep. In an ensemble, the epoch is
            selected for each member separately.

    Returns:
        The parameters and the running statistics of the selected epoch.
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
