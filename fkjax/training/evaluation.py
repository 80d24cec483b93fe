"""Evaluation of a classifier: predictions, accuracy, losses and confusion matrix."""

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples, Model, Variables, log_probs
from fkjax.parallel.mapping import map_examples


def predictions(
    model: Model, variables: Variables, examples: Examples, *, batch_size: int = 100
) -> jax.Array:
    """Returns the most probable class of each example.

    Args:
        model: the classifier.
        variables: the variables of the model.
        examples: the examples to classify. Shape [N, H, W, channels].
        batch_size: number of examples evaluated at a time. It affects the speed, not
            the result.

    Returns:
        The predicted classes. Shape [N] int32.
    """

    def predict(example: jax.Array) -> jax.Array:
        return model.apply(variables, example[None])[0].argmax().astype(jnp.int32)

    return map_examples(predict, examples, batch_size=batch_size)


def accuracy(
    model: Model, variables: Variables, examples: Examples, labels: jax.Array
) -> jax.Array:
    """Returns the fraction of examples that are classified correctly. Shape []."""
    return (predictions(model, variables, examples) == labels).mean()


def losses(
    model: Model,
    variables: Variables,
    examples: Examples,
    labels: jax.Array,
    *,
    batch_size: int = 100,
) -> jax.Array:
    """Returns -log p(label | example) of each example, in nats. Shape [N]."""

    def loss(example: jax.Array, label: jax.Array) -> jax.Array:
        return -log_probs(model, variables, example)[label]

    return map_examples(loss, examples, labels, batch_size=batch_size)


def confusion_matrix(
    labels: jax.Array, predicted: jax.Array, *, num_classes: int
) -> jax.Array:
    """Counts the examples of each true class (row) and predicted class (column).

    Args:
        labels: true classes. Shape [N].
        predicted: predicted classes. Shape [N].
        num_classes: number of classes, C.

    Returns:
        The confusion matrix. Shape [C, C] int32.
    """
    counts = jnp.zeros((num_classes, num_classes), jnp.int32)
    return counts.at[labels, predicted].add(1)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Returns the accuracy within each class; NaN for a class without examples.

    Args:
        confusion: the confusion matrix, with true classes as rows and predicted
            classes as columns. Shape [C, C].

    Returns:
        The accuracies, whose mean is the balanced accuracy. Shape [C].
    """
    totals = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(totals > 0, np.diag(confusion) / np.maximum(totals, 1), np.nan)
