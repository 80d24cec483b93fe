"""Fisher vectors: u(x, s) = grad_theta log p(s | x, theta), one for each example.

What theta is decides what the vector is. Parameters give the Fisher score of the
Fisher kernel. Offsets added to the activations of tapped layers give the paper's
gradient descriptors g (Gudovskiy et al. 2020, Sec. 4.2), by the same function.
"""

from collections.abc import Sequence
from typing import Any

import jax

from fkjax.base import LogProbs, Model, Variables, log_probs, path_of


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
