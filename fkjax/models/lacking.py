"""Classes for which a trained model has no output yet."""

import functools

import jax
import jax.numpy as jnp

from fkjax.base import Model, Tap, Variables, no_tap

NEVER = -1e30
"""The logit of a class that is never predicted; its probability is exactly zero."""


@functools.lru_cache(maxsize=8)
def with_lacking_classes(model: Model, num_lacking: int) -> Model:
    """Returns a model with further classes, whose probabilities are zero.

    The gradient of their log-probabilities is the one that makes all classes of the
    model less probable, because their logit is constant.

    Args:
        model: classifier of C classes.
        num_lacking: number of classes after those of the model, for which it has no
            output.

    Returns:
        The classifier of all classes, which takes the variables of `model`; `model`
        itself if it lacks no class.
    """
    if not num_lacking:
        return model

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        logits = model.apply(variables, images, tap)
        return jnp.pad(logits, ((0, 0), (0, num_lacking)), constant_values=NEVER)

    return model._replace(
        apply=apply,
        num_classes=model.num_classes + num_lacking,
        apply_training=None,
        member=model.member and with_lacking_classes(model.member, num_lacking),
    )
