"""Who answers what a label is, and what a strategy is allowed to see."""

from collections.abc import Callable

import jax
import numpy as np

from fkjax.base import key_for

Oracle = Callable[[np.ndarray], np.ndarray]
"""`oracle(indices [B]) -> labels [B]`: an array here, a person elsewhere."""


def array_oracle(labels: np.ndarray) -> Oracle:
    """An oracle that reads the answers off an array. Shape [N]."""
    answers = np.asarray(labels)
    return lambda indices: answers[indices]


def noisy_labels(
    key: jax.Array, labels: np.ndarray, *, num_classes: int, rate: float
) -> np.ndarray:
    """Answers of which a share is wrong, uniformly among the other classes.

    One draw for the whole pool: an example gets the same answer whenever, and by
    whichever strategy, it is asked for.

    Args:
        key: drawn from by purpose.
        labels: the true ones. Shape [N].
        num_classes: C.
        rate: the probability of a wrong answer, in 0..1.

    Returns:
        Shape [N] int32.
    """
    labels = np.asarray(labels)
    is_wrong = jax.random.bernoulli(
        key_for(key, "which labels are wrong"), np.float32(rate), labels.shape
    )
    shift = jax.random.randint(
        key_for(key, "wrong labels"), labels.shape, 1, num_classes, np.int32
    )
    return np.where(is_wrong, (labels + shift) % num_classes, labels).astype(np.int32)
