"""Oracles that answer from an array of labels, correct or with noise."""

from collections.abc import Callable

import jax
import numpy as np

from fkjax.base import key_for

Oracle = Callable[[np.ndarray], np.ndarray]
"""A function `oracle(indices [B]) -> labels [B]` that gives the labels of a query."""


def array_oracle(labels: np.ndarray) -> Oracle:
    """Returns an oracle that answers from an array.

    Args:
        labels: labels of the pool. Shape [N].
    """
    answers = np.asarray(labels)
    return lambda indices: answers[indices]


def noisy_labels(
    key: jax.Array, labels: np.ndarray, *, num_classes: int, rate: float
) -> np.ndarray:
    """Replaces labels at random by another class, drawn uniformly.

    The labels are drawn once for the whole pool, so an example has the same answer in
    every round and for every strategy.

    Args:
        key: PRNG key, from which keys are derived by purpose.
        labels: true labels. Shape [N].
        num_classes: number of classes, C.
        rate: probability of a wrong label, from 0 to 1.

    Returns:
        The labels with noise. Shape [N] int32.
    """
    labels = np.asarray(labels)
    is_wrong = jax.random.bernoulli(
        key_for(key, "which labels are wrong"), np.float32(rate), labels.shape
    )
    shift = jax.random.randint(
        key_for(key, "wrong labels"), labels.shape, 1, num_classes, np.int32
    )
    return np.where(is_wrong, (labels + shift) % num_classes, labels).astype(np.int32)
