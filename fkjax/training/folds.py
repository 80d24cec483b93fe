"""Predictions for a validation set that is trained on, by models without a part of it.

The validation set is divided into folds. For each fold, a model is trained on the other
folds and the queried examples, and predicts the fold: no example is predicted by a
model that was trained on it.
"""

import jax
import jax.numpy as jnp

from fkjax.base import Examples, Model, Variables, key_for, log_probs
from fkjax.models.ensemble import each_model
from fkjax.parallel.mapping import map_examples
from fkjax.training import fit

NUM_FOLDS = 5
"""The number of folds, or the number of validation examples if there are fewer."""


def folds(key: jax.Array, labels: jax.Array, *, num_folds: int) -> jax.Array:
    """Assigns examples to folds at random, with each class spread over all folds.

    >>> labels = jnp.array([0, 0, 1, 1])
    >>> print(jnp.sort(folds(jax.random.key(0), labels, num_folds=2)))
    [0 0 1 1]

    Args:
        key: random key.
        labels: true classes. Shape [M].
        num_folds: number of folds.

    Returns:
        The fold of each example. The sizes of the folds differ by at most one, in total
        and within each class. Shape [M] int.
    """
    at_random = jax.random.uniform(key, labels.shape, jnp.float32)
    order = jnp.lexsort((at_random, labels))
    place = jnp.arange(len(labels)) % num_folds
    return jnp.zeros_like(place).at[order].set(place)


def out_of_fold(
    key: jax.Array,
    model: Model,
    variables: Variables,
    examples: Examples,
    labels: jax.Array,
    num_labeled: jax.Array,
    validation: Examples,
    *,
    schedule: fit.Schedule,
    score: fit.Score = fit.last_epoch,
    batch_size: int = 100,
) -> jax.Array:
    """Predicts each validation example by a model that was trained without its fold.

    The models of the folds are trained in one program (`each_model`).

    Args:
        key: random key of the folds and of training.
        model: the classifier.
        variables: variables from which each model starts; they must not depend on the
            labels of the validation set.
        examples: the validation set, the other labeled examples, and padding. Shape
            [capacity, H, W, channels].
        labels: labels of these examples. Shape [capacity].
        num_labeled: number of labeled examples, including the validation set. Shape [].
        validation: the validation set once more. Shape [M, H, W, channels].
        schedule: hyperparameters of training.
        score: function that selects the epoch to keep, see `fkjax.training.fit.fit`.
        batch_size: number of examples predicted at a time. It affects the speed, not
            the result.

    Returns:
        The log-probabilities of the validation set. Shape [M, C].
    """
    size = len(validation)
    num_folds = min(NUM_FOLDS, size)
    fold = folds(key_for(key, "assignment"), labels[:size], num_folds=num_folds)
    fold_of_row = jnp.concatenate([fold, jnp.full(len(labels) - size, -1, fold.dtype)])
    is_labeled = jnp.arange(len(labels)) < num_labeled

    def predict(number: jax.Array) -> jax.Array:
        is_kept = is_labeled & (fold_of_row != number)
        first = jnp.argsort(~is_kept, stable=True)  # `fit` takes the first rows
        trained = fit.fit(
            key_for(key, "fold", number),
            model,
            variables,
            examples[first],
            labels[first],
            is_kept.sum(),
            schedule=schedule,
            score=score,
        )
        return map_examples(
            lambda example: log_probs(model, trained, example),
            validation,
            batch_size=batch_size,
        )

    by_fold = each_model(predict, jnp.arange(num_folds))
    return by_fold[fold, jnp.arange(size)]
