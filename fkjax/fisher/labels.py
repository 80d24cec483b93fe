"""Labels as weights of the log-probabilities, of which a Fisher vector is the gradient.

A label that is not a class, such as -1 for an example without a label, is an error. A
compiled program cannot raise it, and returns NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def class_weights(label: Any, log_probs: jax.Array) -> jax.Array:
    """Returns the weights e_s, by which the weighted sum is log p(s | x).

    >>> class_weights(1, jnp.log(jnp.array([0.2, 0.3, 0.5])))
    Array([0., 1., 0.], dtype=float32)

    Args:
        label: label s. Shape [].
        log_probs: log-probabilities, of which the dtype and length are used. Shape [C].

    Returns:
        The weights; NaN if the label is not a class. Shape [C].

    Raises:
        ValueError: if the label is not a class and its value is known.
    """
    check_labels(label, log_probs.size)
    label = jnp.asarray(label)
    weights = jax.nn.one_hot(label, log_probs.size, dtype=log_probs.dtype)
    return jnp.where((label >= 0) & (label < log_probs.size), weights, jnp.nan)


def check_labels(labels: Any, num_classes: int) -> None:
    """Checks that all labels are classes, if their values are known.

    Args:
        labels: labels, of any shape. Tracers of JAX are not checked.
        num_classes: number of classes, C.

    Raises:
        ValueError: if a label is not in 0..C-1.
    """
    if isinstance(labels, Tracer):
        return
    labels = np.asarray(labels).ravel()
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise ValueError(
            f"labels must be classes, from 0 to {num_classes - 1}, got {labels[bad[0]]}"
            f" at position {bad[0]} ({len(bad)} of {len(labels)} labels are no class): "
            "leave out examples without a label"
        )
