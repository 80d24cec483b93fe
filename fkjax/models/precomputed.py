"""Models of precomputed outputs: features and logits computed by another program."""

import functools

import jax
import jax.numpy as jnp

from fkjax.base import Model, Tap, Variables, no_tap
from fkjax.models.lacking import NEVER

FEATURES, LOGITS = "features", "logits"


@functools.cache
def from_outputs(num_features: int, num_classes: int, num_lacking: int = 0) -> Model:
    """Returns a model whose inputs are precomputed features and logits.

    An "image" of shape [1, 1, d + C] holds the penultimate features and the logits of
    an example. They determine the probabilities, the features z and the gradient with
    respect to the logits, e_s - p. This is sufficient for the Fisher vectors of the
    last layer (`fkjax.fisher.kernel.last_layer`) and for strategies that need one pass
    without dropout.

    >>> model = from_outputs(2, 3)
    >>> row = jax.numpy.array([[[[0.5, 0.5, 1.0, 2.0, 3.0]]]])
    >>> model.apply(Variables({}), row).tolist()
    [[1.0, 2.0, 3.0]]

    Further classes, for which there are no logits, have the probability zero and the
    entry 0 - p = 0 or e_s = 1 of the gradient. In the tap "logits", their values are
    the mean of the logits, which does not change correlations.

    Args:
        num_features: number of features, d.
        num_classes: number of logits, C.
        num_lacking: number of classes without a logit, after the others.

    Returns:
        The model, which has no parameters and the taps "features" and "logits".
    """

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        del variables
        rows = images.reshape(len(images), num_features + num_classes)
        tap(FEATURES, rows[:, :num_features])
        logits = rows[:, num_features:]
        if not num_lacking:
            return tap(LOGITS, logits)
        mean = logits.mean(axis=1, keepdims=True)
        logits = jnp.append(logits, jnp.repeat(mean, num_lacking, axis=1), axis=1)
        return tap(LOGITS, logits).at[:, num_classes:].add(NEVER)

    def init(key: jax.Array) -> Variables:
        del key
        return Variables({})

    return Model(
        init,
        apply,
        (FEATURES, LOGITS),
        "",
        (1, 1, num_features + num_classes),
        num_classes + num_lacking,
    )
