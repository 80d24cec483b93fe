"""Fisher vectors: u(x, s) = grad_theta log p(s | x, theta) of each example.

If theta are parameters, the vector is the Fisher score of the Fisher kernel. If theta
are offsets that are added to tapped activations, it is the gradient descriptor g
(Gudovskiy et al. 2020, Sec. 4.2).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.tree_util import Partial

from fkjax.base import LogProbs, Model, Variables, log_probs, path_of
from fkjax.fisher.labels import check_labels, class_weights


def fisher_vector(log_probs_fn: LogProbs, theta: Any, x: Any, label: jax.Array) -> Any:
    """Computes u(x, s) = grad_theta log p(s | x, theta) of one example.

    >>> import jax.numpy as jnp
    >>> softmax_regression = lambda theta, x: jax.nn.log_softmax(theta @ x)
    >>> fisher_vector(softmax_regression, jnp.zeros((2, 3)), jnp.ones(3), 1)
    Array([[-0.5, -0.5, -0.5],
           [ 0.5,  0.5,  0.5]], dtype=float32)

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        x: one example.
        label: label or pseudo-label s. Shape [].

    Returns:
        The Fisher vector, a pytree like theta. If the label is not a class, it is NaN.

    Raises:
        ValueError: if the label is not a class and its value is known, that is, not
            under `jit`, `vmap` or `grad`.
    """
    return _vector(log_probs_fn, theta, x, label, known=label)


def fisher_vectors(log_probs_fn: LogProbs, theta: Any, xs: Any, labels: Any) -> Any:
    """Computes the Fisher vectors of N examples, with a leading axis N on each leaf.

    Labels that are not classes are treated as by `fisher_vector`.
    """

    def one(x: Any, label: jax.Array) -> Any:
        return _vector(log_probs_fn, theta, x, label, known=labels)

    return jax.vmap(one)(xs, labels)


def _vector(
    log_probs_fn: LogProbs, theta: Any, x: Any, label: Any, *, known: Any
) -> Any:
    def of_label(theta: Any) -> jax.Array:
        log_p = log_probs_fn(theta, x)
        check_labels(known, log_p.size)
        return (class_weights(label, log_p) * log_p).sum()

    return jax.grad(of_label)(theta)


def of_parameters(
    model: Model, variables: Variables, names: Sequence[str] | None = None
) -> tuple[LogProbs, Any]:
    """Returns log p(y | x, theta) as a function of a model's parameters, and theta.

    The function holds the running statistics, and the parameters that are not in
    `names`. It is a `jax.tree_util.Partial`, that is, a pytree of these arrays: given
    to a compiled function as an argument, they are no constants of the program, which
    is used again for other values.

    Args:
        model: the classifier.
        variables: variables of the model.
        names: names of the parameters in theta, as for `subset`; None for all.

    Returns:
        A function `log_probs_fn(theta, image)`, and theta: all parameters in their
        tree, or the named ones by path.

    Raises:
        ValueError: if `names` is empty, or a name has no parameter.
    """
    log_probs_fn = Partial(_of_model(model), variables._replace(parameters=()))
    if names is None:
        return log_probs_fn, variables.parameters
    return subset(log_probs_fn, variables.parameters, names)


@functools.lru_cache(maxsize=32)
def _of_model(model: Model) -> LogProbs:
    """Returns one function for each model, so that its programs are found again."""

    def log_probs_fn(others: Variables, parameters: Any, image: jax.Array) -> jax.Array:
        return log_probs(model, others._replace(parameters=parameters), image)

    return log_probs_fn


def subset(
    log_probs_fn: LogProbs, theta: Any, names: Sequence[str]
) -> tuple[LogProbs, dict[str, jax.Array]]:
    """Restricts a function to some leaves of theta: for Fisher vectors of a few layers.

    A leaf keeps its path, and therefore its sketch in
    `fkjax.sketch.projection.project`.

    >>> import jax.numpy as jnp
    >>> theta = {"fc": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
    >>> def log_probs_fn(theta, x):
    ...     return jax.nn.log_softmax(x @ theta["fc"]["kernel"] + theta["fc"]["bias"])
    >>> of_bias, bias = subset(log_probs_fn, theta, ["fc/bias"])
    >>> fisher_vector(of_bias, bias, jnp.ones(2), 0)["fc/bias"].shape
    (3,)

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        names: paths (`fkjax.base.path_of`) of leaves, such as "conv1/kernel", or of
            subtrees, such as "conv1".

    Returns:
        A function `log_probs_fn(chosen, x)`, which holds the other leaves as that of
        `of_parameters` does, and the chosen leaves by path.

    Raises:
        ValueError: if `names` is empty, or a name has no leaf.
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(theta)
    leaves = {path_of(path): leaf for path, leaf in keyed}
    chosen = {}
    for name in names:
        found = {p: x for p, x in leaves.items() if f"{p}/".startswith(f"{name}/")}
        if not found:
            raise ValueError(
                f"theta has no leaf at or below {name!r}; expected names of leaves "
                f"or subtrees of {', '.join(leaves)}"
            )
        chosen |= found
    if not chosen:
        raise ValueError(
            f"names must have one or more of the leaves {', '.join(leaves)}, got none"
        )

    others = {path: leaf for path, leaf in leaves.items() if path not in chosen}
    whole = log_probs_fn if isinstance(log_probs_fn, Partial) else Partial(log_probs_fn)
    return Partial(_of_chosen(treedef, tuple(leaves)), whole, others), chosen


@functools.lru_cache(maxsize=32)
def _of_chosen(treedef: Any, paths: tuple[str, ...]) -> LogProbs:
    def of_chosen(
        log_probs_fn: LogProbs,
        others: dict[str, jax.Array],
        chosen: dict[str, jax.Array],
        x: Any,
    ) -> jax.Array:
        leaves = others | chosen
        return log_probs_fn(treedef.unflatten([leaves[path] for path in paths]), x)

    return of_chosen
