"""How good a model is: accuracy by class, confusion, and the mistakes themselves."""

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples, Model, Variables, log_probs
from fkjax.parallel.mapping import map_examples


def predictions(
    model: Model, variables: Variables, examples: Examples, *, batch_size: int = 100
) -> jax.Array:
    """The most probable class of each example.

    Args:
        model: the classifier.
        variables: its variables.
        examples: Shape [N, H, W, channels].
        batch_size: how many at a time; it changes the speed, not the result.

    Returns:
        Shape [N] int32.
    """

    def predict(example: jax.Array) -> jax.Array:
        return model.apply(variables, example[None])[0].argmax().astype(jnp.int32)

    return map_examples(predict, examples, batch_size=batch_size)


def accuracy(
    model: Model, variables: Variables, examples: Examples, labels: jax.Array
) -> jax.Array:
    """The share of examples that the model gets right. Shape []."""
    return (predictions(model, variables, examples) == labels).mean()


def losses(
    model: Model,
    variables: Variables,
    examples: Examples,
    labels: jax.Array,
    *,
    batch_size: int = 100,
) -> jax.Array:
    """-log p(label | example) of each example, in nats. Shape [N]."""

    def loss(example: jax.Array, label: jax.Array) -> jax.Array:
        return -log_probs(model, variables, example)[label]

    return map_examples(loss, examples, labels, batch_size=batch_size)


def confusion_matrix(
    labels: jax.Array, predicted: jax.Array, *, num_classes: int
) -> jax.Array:
    """How many examples of each true class (rows) were given each class (columns).

    Args:
        labels: Shape [N].
        predicted: Shape [N].
        num_classes: C.

    Returns:
        Shape [C, C] int32.
    """
    counts = jnp.zeros((num_classes, num_classes), jnp.int32)
    return counts.at[labels, predicted].add(1)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """The share of each class that is right; NaN for a class with no example.

    Args:
        confusion: rows true, columns predicted. Shape [C, C].

    Returns:
        Shape [C]. Its mean over classes is the balanced accuracy.
    """
    totals = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(totals > 0, np.diag(confusion) / np.maximum(totals, 1), np.nan)
