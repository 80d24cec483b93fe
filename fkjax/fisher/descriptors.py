"""Descriptors z and g of taps: features, and Fisher vectors of activations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import Model, Variables, log_probs, widened
from fkjax.fisher.labels import class_weights


class Descriptor(NamedTuple):
    """The descriptors of one example that the practical Fisher kernel compares.

    Attributes:
        log_probs: log-probabilities log p(y | x). Shape [C].
        z: spatial mean of each tapped activation, by tap; like g, in float32 or wider.
            Shapes [n_l].
        g: spatial mean of d log p(s | x) / d activation, by tap. Shapes [n_l].
        label: label s for which g was computed. Shape [].
    """

    log_probs: jax.Array
    z: dict[str, jax.Array]
    g: dict[str, jax.Array]
    label: jax.Array


LabelFn = Callable[
    [jax.Array, dict[str, jax.Array], Callable[[jax.Array], dict[str, jax.Array]]],
    jax.Array,
]
"""A function `label_fn(log_probs, z, gradient)` that returns the label to assume for
one example, of shape [].

`gradient(label)` computes the example's g for a label, by one backward pass."""


def descriptor(
    model: Model,
    variables: Variables,
    image: jax.Array,
    label_fn: LabelFn,
    *,
    taps: Sequence[str],
) -> Descriptor:
    """Computes the descriptors z and g of one example, by one backward pass.

    The descriptor g is the Fisher vector with respect to offsets at zero: an offset,
    divided by the number of positions, is added to each position of an activation. Its
    gradient is the spatial mean of the activation's gradient.

    Source: Gudovskiy et al. 2020, Sec. 4.2.

    Args:
        model: the classifier.
        variables: variables of the model.
        image: the example. Shape [H, W, channels].
        label_fn: function that returns the label s.
        taps: names of the taps to use.

    Returns:
        The descriptors of the example. If the label is not a class, g is NaN.

    Raises:
        ValueError: if the label is not a class and its value is known, that is, not
            under `jit`, `vmap` or `grad`.
    """
    log_p, z, pullback = _differentiated(model, variables, image, taps)

    def gradient(label: jax.Array) -> dict[str, jax.Array]:
        return pullback(class_weights(label, log_p))

    label = label_fn(log_p, z, gradient)
    return Descriptor(log_p, z, gradient(label), label)


def all_gradients(
    model: Model, variables: Variables, image: jax.Array, *, taps: Sequence[str]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Computes z of one example, and g for each of the C labels.

    Args:
        model: the classifier.
        variables: variables of the model.
        image: the example. Shape [H, W, channels].
        taps: names of the taps to use.

    Returns:
        The features z by tap, of shapes [n_l], and g by tap, of shapes [C, n_l].
    """
    log_p, z, pullback = _differentiated(model, variables, image, taps)
    # The labels are mapped one by one, so that many examples still fit in the caches.
    return z, jax.lax.map(pullback, jnp.eye(len(log_p), dtype=log_p.dtype))


def feature_derivatives(
    model: Model, variables: Variables, image: jax.Array, *, taps: Sequence[str]
) -> jax.Array:
    """Computes sum_l <z_l, g_l(c)> of one example for each label c, without the g.

    The g(c) are the rows of the Jacobian of log p(y | x) with respect to the offsets
    of `descriptor`, so these products are the derivative along z. It takes one pass
    for all labels, while the g take C.

    Args:
        model: the classifier.
        variables: variables of the model.
        image: the example. Shape [H, W, channels].
        taps: names of the taps to use.

    Returns:
        The product for each label. Shape [C].
    """
    log_p, z, pullback = _differentiated(model, variables, image, taps)
    # The derivative along z is the transpose of the pullback, which is linear.
    # `jax.jvp` cannot be used: the convolutions for CPUs have no forward mode.
    _, pushforward = jax.vjp(pullback, jnp.zeros_like(log_p))
    return pushforward(z)[0]


def _differentiated(
    model: Model, variables: Variables, image: jax.Array, taps: Sequence[str]
) -> tuple[
    jax.Array, dict[str, jax.Array], Callable[[jax.Array], dict[str, jax.Array]]
]:
    """Returns log p(y | x), z, and the pullback from log p to the offsets."""
    shapes = jax.eval_shape(lambda: _tapped(model, variables, image, {}, taps)[1])
    offsets = {name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in taps}
    log_p, pullback, z = jax.vjp(
        lambda offsets: _tapped(model, variables, image, offsets, taps),
        offsets,
        has_aux=True,
    )
    return log_p, z, lambda cotangent: pullback(cotangent)[0]


def features(
    model: Model, variables: Variables, image: jax.Array, *, taps: Sequence[str]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns log p(y | x) and the descriptor z of one example."""
    return _tapped(model, variables, image, {}, taps)


def _tapped(
    model: Model,
    variables: Variables,
    image: jax.Array,
    offsets: dict[str, jax.Array],
    taps: Sequence[str],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    z = {}

    def tap(name: str, activation: jax.Array) -> jax.Array:
        if name in taps:
            positions = tuple(range(activation.ndim - 1))
            z[name] = widened(activation).mean(positions)
        if name in offsets:
            offset = offsets[name] * (offsets[name].size / activation.size)
            # In the precision of the activation, so that the model computes the same,
            # but broadcast before, so that the gradients are summed in that of z.
            everywhere = jnp.broadcast_to(offset, activation.shape)
            activation += everywhere.astype(activation.dtype)
        return activation

    log_p = log_probs(model, variables, image, tap)
    return log_p, {name: z[name] for name in taps}
