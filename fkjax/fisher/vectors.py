"""Fisher vectors: u(x, s) = grad_theta log p(s | x, theta), one for each example.

What theta is decides what the vector is. Parameters give the Fisher score of the
Fisher kernel. Offsets added to the activations of tapped layers give the paper's
gradient descriptors g (Gudovskiy et al. 2020, Sec. 4.2), by the same function.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import Model, Variables, log_probs, path_of

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


def of_parameters(
    model: Model, variables: Variables, names: Sequence[str] | None = None
) -> tuple[LogProbs, Any]:
    """Gives log p(y | x, theta) as a function of theta, and theta, for parameters.

    Running statistics, and parameters that are not named, are constants of the
    function.

    Args:
        model: the classifier.
        variables: its variables.
        names: which parameters theta has, as in `subset`; all if not given.

    Returns:
        `log_probs_fn(theta, image)`, and theta: the parameters as they are, or those
        that are named, by path.

    Raises:
        ValueError: as `subset`.
    """

    def log_probs_fn(parameters: Any, image: jax.Array) -> jax.Array:
        return log_probs(model, variables._replace(parameters=parameters), image)

    if names is None:
        return log_probs_fn, variables.parameters
    return subset(log_probs_fn, variables.parameters, names)


def subset(
    log_probs_fn: LogProbs, theta: Any, names: Sequence[str]
) -> tuple[LogProbs, dict[str, jax.Array]]:
    """Some of theta in its place: the Fisher vector of a few layers.

    A leaf keeps its path, and so the sketch that `fkjax.sketch.projection.project`
    draws it.

    >>> theta = {"fc": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
    >>> def log_probs_fn(theta, x):
    ...     return jax.nn.log_softmax(x @ theta["fc"]["kernel"] + theta["fc"]["bias"])
    >>> of_bias, bias = subset(log_probs_fn, theta, ["fc/bias"])
    >>> fisher_vector(of_bias, bias, jnp.ones(2), 0)["fc/bias"].shape
    (3,)

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        names: of leaves, such as "conv1/kernel", or of what holds them, such as
            "conv1"; paths are `fkjax.base.path_of`.

    Returns:
        `log_probs_fn(chosen, x)` with the other leaves as constants, and the chosen
        leaves by path.

    Raises:
        ValueError: if there is no name, or nothing of that name.
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(theta)
    leaves = {path_of(path): leaf for path, leaf in keyed}
    chosen = {}
    for name in names:
        found = {p: x for p, x in leaves.items() if f"{p}/".startswith(f"{name}/")}
        if not found:
            raise ValueError(
                f"theta has no leaf at or below {name!r}: give names out of "
                f"{', '.join(leaves)}"
            )
        chosen |= found
    if not chosen:
        raise ValueError(f"name one or more of the leaves {', '.join(leaves)}")

    def of_chosen(chosen: dict[str, jax.Array], x: Any) -> jax.Array:
        return log_probs_fn(treedef.unflatten(list((leaves | chosen).values())), x)

    return of_chosen, chosen


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
