"""Descriptors z and g of taps: features, and Fisher vectors by activations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import Model, Variables, log_probs


class Descriptor(NamedTuple):
    """What the practical Fisher kernel compares of one example.

    Attributes:
        log_probs: log p(y | x). Shape [C].
        z: spatial mean of each tapped activation. Shapes [n_l].
        g: spatial mean of d log p(s | x) / d activation. Shapes [n_l].
        label: the label s under which g was taken. Shape [].
    """

    log_probs: jax.Array
    z: dict[str, jax.Array]
    g: dict[str, jax.Array]
    label: jax.Array


LabelFn = Callable[
    [jax.Array, dict[str, jax.Array], Callable[[jax.Array], dict[str, jax.Array]]],
    jax.Array,
]
"""`label_fn(log_probs, z, gradient)`: the label to assume for one example. Shape [].

`gradient(label)` is the example's g under any label: a backward pass each."""


def descriptor(
    model: Model,
    variables: Variables,
    image: jax.Array,
    label_fn: LabelFn,
    *,
    taps: Sequence[str],
) -> Descriptor:
    """Feature and gradient descriptors z, g of one example, by one backward pass.

    An offset that is added to every position of an activation, divided by the number
    of positions, has the spatial mean of the activation's gradient as its gradient:
    g is the Fisher vector with respect to such offsets at zero.

    Source: Gudovskiy et al. 2020, Sec. 4.2.

    Args:
        model: the classifier.
        variables: its variables.
        image: Shape [H, W, channels].
        label_fn: gives the label s from log p(y | x), z, and g under other labels.
        taps: which activations enter.

    Returns:
        The example's `Descriptor`.
    """
    log_p, z, pullback = _differentiated(model, variables, image, taps)

    def gradient(label: jax.Array) -> dict[str, jax.Array]:
        return pullback(jax.nn.one_hot(label, model.num_classes, dtype=log_p.dtype))

    label = label_fn(log_p, z, gradient)
    return Descriptor(log_p, z, gradient(label), label)


def all_gradients(
    model: Model, variables: Variables, image: jax.Array, *, taps: Sequence[str]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Features z of one example, and its g under each of the C labels.

    Args:
        model: the classifier.
        variables: its variables.
        image: Shape [H, W, channels].
        taps: which activations enter.

    Returns:
        z, shapes [n_l], and g, shapes [C, n_l].
    """
    log_p, z, pullback = _differentiated(model, variables, image, taps)
    # One label after the other: all at once, many examples' would leave the caches.
    return z, jax.lax.map(pullback, jnp.eye(len(log_p), dtype=log_p.dtype))


def feature_derivatives(
    model: Model, variables: Variables, image: jax.Array, *, taps: Sequence[str]
) -> jax.Array:
    """sum_l <z_l, g_l(c)> of one example for each label c, without any of the g.

    With log p(y | x) as a function of the offsets of `descriptor`, the g(c) are the
    rows of its Jacobian, and these products are its derivative along z: one pass for
    all labels, where the g would take C.

    Args:
        model: the classifier.
        variables: its variables.
        image: Shape [H, W, channels].
        taps: which activations enter.

    Returns:
        Shape [C].
    """
    log_p, z, pullback = _differentiated(model, variables, image, taps)
    # The derivative along z is the transpose of the pullback, which is linear. The
    # convolutions for CPU have no forward mode that `jax.jvp` could use instead.
    _, pushforward = jax.vjp(pullback, jnp.zeros_like(log_p))
    return pushforward(z)[0]


def _differentiated(
    model: Model, variables: Variables, image: jax.Array, taps: Sequence[str]
) -> tuple[
    jax.Array, dict[str, jax.Array], Callable[[jax.Array], dict[str, jax.Array]]
]:
    """Gives log p(y | x), z, and the pullback from log p to the offsets."""
    shapes = jax.eval_shape(lambda: _tapped(model, variables, image, {}, taps)[1])
    offsets = {name: jnp.zeros(shapes[name].shape) for name in taps}
    log_p, pullback, z = jax.vjp(
        lambda offsets: _tapped(model, variables, image, offsets, taps),
        offsets,
        has_aux=True,
    )
    return log_p, z, lambda cotangent: pullback(cotangent)[0]


def features(
    model: Model, variables: Variables, image: jax.Array, *, taps: Sequence[str]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Gives log p(y | x) and the descriptor z of one example: no backward pass."""
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
            z[name] = activation.mean(positions)
        if name in offsets:
            activation += offsets[name] * (offsets[name].size / activation.size)
        return activation

    log_p = log_probs(model, variables, image, tap)
    return log_p, {name: z[name] for name in taps}
