"""Fisher vectors: u(x, s) = grad_theta log p(s | x, theta), one for each example.

What theta is decides what the vector is. Parameters give the Fisher score of the
Fisher kernel. Offsets added to the activations of tapped layers give the paper's
gradient descriptors g (Gudovskiy et al. 2020, Sec. 4.2), by the same function.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import Model, Variables, log_probs

LogProbs = Callable[..., jax.Array]
"""`log_probs_fn(theta, x)`: log p(y | x, theta) of one example. Shape [C]."""


def fisher_vector(log_probs_fn: LogProbs, theta: Any, x: Any, label: jax.Array) -> Any:
    """u(x, s) = grad_theta log p(s | x, theta), of one example.

    >>> softmax_regression = lambda theta, x: jax.nn.log_softmax(theta @ x)
    >>> fisher_vector(softmax_regression, jnp.zeros((2, 3)), jnp.ones(3), 1)
    Array([[-0.5, -0.5, -0.5],
           [ 0.5,  0.5,  0.5]], dtype=float32)

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        x: one example.
        label: the (pseudo-)label s. Shape [].

    Returns:
        A pytree like theta.
    """
    return jax.grad(lambda theta: log_probs_fn(theta, x)[label])(theta)


def fisher_vectors(log_probs_fn: LogProbs, theta: Any, xs: Any, labels: Any) -> Any:
    """`fisher_vector` for each of N examples: a leading axis N on every leaf."""
    return jax.vmap(lambda x, s: fisher_vector(log_probs_fn, theta, x, s))(xs, labels)


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


LabelFn = Callable[[jax.Array, dict[str, jax.Array]], jax.Array]
"""`label_fn(log_probs, z)`: the label to assume for one example. Shape []."""


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
        label_fn: gives the label s from log p(y | x) and z.
        taps: which activations enter.

    Returns:
        The example's `Descriptor`.
    """
    shapes = jax.eval_shape(lambda: _tapped(model, variables, image, {}, taps)[1])
    offsets = {name: jnp.zeros(shapes[name].shape) for name in taps}
    log_p, gradient, z = jax.vjp(
        lambda offsets: _tapped(model, variables, image, offsets, taps),
        offsets,
        has_aux=True,
    )
    label = label_fn(log_p, z)
    (g,) = gradient(jax.nn.one_hot(label, model.num_classes, dtype=log_p.dtype))
    return Descriptor(log_p, z, g, label)


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
