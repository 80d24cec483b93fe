"""Fisher vectors left in factors: what goes into each layer, and the error out of it.

The gradient of a layer's kernel is a sum over the T positions at which it is applied
(one for a dense layer, H' W' for a convolution) of outer products

    G = sum_t a_t d_t^T,      a_t = input, d_t = d log p(s | x) / d output,

so an inner product or a projection of G seldom needs G. One forward and one backward
pass give the factors of all kernels, and the plain gradients of all other parameters,
without a kernel's gradient being asked for: zeros are added to the layers' outputs,
and the errors are the derivative with respect to them.

The layers are found in the function itself. Its jaxpr is read, following each leaf of
theta through reshapes and transpositions to the matrix products and convolutions that
use it. A leaf that is used in any other way is differentiated plainly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import LogProbs, path_of
from fkjax.fisher.factors import Factors, weight_gradient
from fkjax.fisher.layers import Layer, View, evaluate_views


class Captured(NamedTuple):
    """A Fisher vector, with the gradients of kernels left in factors.

    Attributes:
        factors: by path, for each use.
        rest: by path, the plain gradients of all other leaves.
    """

    factors: dict[str, tuple[Factors, ...]]
    rest: dict[str, jax.Array]


class Use(NamedTuple):
    """How one layer uses one kernel.

    Attributes:
        kind: "dense" or "convolution".
        positions: T.
        num_inputs: m.
        num_outputs: n.
        to_inputs: the layer's input to a. Shape [T, m].
        to_errors: the error of the layer's output to d. Shape [T, n].
        to_leaf: a gradient of shape [m, n] to the shape of the leaf.
    """

    kind: str
    positions: int
    num_inputs: int
    num_outputs: int
    to_inputs: Callable[[jax.Array], jax.Array]
    to_errors: Callable[[jax.Array], jax.Array]
    to_leaf: Callable[[jax.Array], jax.Array]


class Plan(NamedTuple):
    """Which leaves are captured in factors, and how; printing it shows both.

    Attributes:
        uses: by path, of each leaf all of whose uses are captured.
        rest: by path, why a leaf is not.
        treedef: the structure of theta.
        paths: of all leaves, in the order of theta.
    """

    uses: dict[str, tuple[Use, ...]]
    rest: dict[str, str]
    treedef: Any
    paths: tuple[str, ...]

    def __str__(self) -> str:
        """One line for each use or remaining leaf."""
        width = max(map(len, self.paths), default=0)
        lines = []
        for path in self.paths:
            for use in self.uses.get(path, ()):
                shape = f"T={use.positions} m={use.num_inputs} n={use.num_outputs}"
                lines.append(f"{path:{width}}  {use.kind} {shape}")
            if path in self.rest:
                lines.append(f"{path:{width}}  plain: {self.rest[path]}")
        return "\n".join(lines)


def plan(log_probs_fn: LogProbs, theta: Any, x: Any) -> Plan:
    """Finds the layers; computes nothing.

    >>> def log_probs_fn(theta, x):
    ...     return jax.nn.log_softmax(x @ theta["kernel"] + theta["bias"])
    >>> theta = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
    >>> print(plan(log_probs_fn, theta, jnp.ones(3)))
    bias    plain: used by add
    kernel  dense T=1 m=3 n=2

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        x: one example.

    Returns:
        The plan.
    """
    return _prepare(log_probs_fn, theta, x)[0]


def forward(
    log_probs_fn: LogProbs, theta: Any, x: Any
) -> tuple[jax.Array, Callable[[jax.Array], Captured]]:
    """One forward pass, and the backward pass for when the label is known.

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        x: one example.

    Returns:
        log p(y | x), of shape [C], and `backward(weights)`: the captured gradient of
        the sum of the log-probabilities with these weights, of shape [C].
    """
    log_p, a, pull = _linearized(log_probs_fn, theta, x)
    return log_p, lambda weights: _joined(a, *pull(weights))


def capture(log_probs_fn: LogProbs, theta: Any, x: Any, label: jax.Array) -> Captured:
    """`fisher.fisher_vector` in factors: one forward and one backward pass.

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        x: one example.
        label: the (pseudo-)label s. Shape [].

    Returns:
        The captured gradient of log p(s | x, theta).
    """
    log_p, backward = forward(log_probs_fn, theta, x)
    return backward(jax.nn.one_hot(label, log_p.size, dtype=log_p.dtype))


def capture_all_classes(log_probs_fn: LogProbs, theta: Any, x: Any) -> Captured:
    """`capture` under each of the C labels: one forward pass, C backward.

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: any pytree of arrays.
        x: one example.

    Returns:
        `Captured` with a leading axis C on every error d and every plain gradient; the
        inputs a are the same for all classes and have none.
    """
    log_p, a, pull = _linearized(log_probs_fn, theta, x)
    return _joined(a, *jax.vmap(pull)(jnp.eye(log_p.size, dtype=log_p.dtype)))


def gradient_of(use: Use, factors: Factors) -> jax.Array:
    """The gradient that one use contributes, materialised in the leaf's shape.

    Args:
        use: from the plan.
        factors: of that use. Leading axes of d, such as classes, are kept.

    Returns:
        The shape of the leaf.
    """
    a, d = factors
    if d.ndim > 2:
        return jax.vmap(lambda d: gradient_of(use, Factors(a, d)))(d)
    return use.to_leaf(weight_gradient(a, d))


def is_plain(uses: tuple[Use, ...]) -> bool:
    """Whether the leaf is the sum of a^T d, with axes merely merged, in their order."""

    def is_kept(use: Use, places: np.ndarray) -> bool:
        with jax.ensure_compile_time_eval():
            leaf = use.to_leaf(jnp.asarray(places))
        return bool((np.asarray(leaf).ravel() == places.ravel()).all())

    return all(
        is_kept(use, places)
        for use in uses
        for places in np.indices((use.num_inputs, use.num_outputs))
    )


def leaf_gradient(uses: tuple[Use, ...], factors: tuple[Factors, ...]) -> jax.Array:
    """The gradient of one leaf, materialised: the sum over its uses."""
    terms = zip(uses, factors, strict=True)
    first, *others = (gradient_of(use, f) for use, f in terms)
    return sum(others, first)


def gradient(plan: Plan, captured: Captured) -> Any:
    """The Fisher vector itself: a pytree like theta."""
    leaves = dict(captured.rest)
    for path, uses in plan.uses.items():
        leaves[path] = leaf_gradient(uses, captured.factors[path])
    return plan.treedef.unflatten([leaves[path] for path in plan.paths])


_Arrays = dict[str, tuple[jax.Array, ...]]


def _joined(a: _Arrays, d: _Arrays, rest: dict[str, jax.Array]) -> Captured:
    return Captured({path: tuple(map(Factors, a[path], d[path])) for path in a}, rest)


def _linearized(
    log_probs_fn: LogProbs, theta: Any, x: Any
) -> tuple[jax.Array, _Arrays, Callable[[jax.Array], tuple[_Arrays, Any]]]:
    """Gives log p(y | x), the inputs a, and `pull(weights)`: the errors d, the rest."""
    found, run, outputs = _prepare(log_probs_fn, theta, x)
    leaves = dict(zip(found.paths, jax.tree.leaves(theta), strict=True))
    log_p, pull_all, inputs = jax.vjp(
        lambda rest, zeros: run({**leaves, **rest}, zeros),
        {path: leaves[path] for path in found.rest},
        jax.tree.map(jnp.zeros_like, outputs),
        has_aux=True,
    )

    def matrices(values: dict[str, list[jax.Array]], field: str) -> _Arrays:
        return {
            path: tuple(
                getattr(use, field)(value)
                for use, value in zip(uses, values[path], strict=True)
            )
            for path, uses in found.uses.items()
        }

    def pull(weights: jax.Array) -> tuple[_Arrays, Any]:
        rest, errors = pull_all(weights)
        return matrices(errors, "to_errors"), rest

    return log_p, matrices(inputs, "to_inputs"), pull


def _prepare(log_probs_fn: LogProbs, theta: Any, x: Any):
    """The plan; `run(leaves, zeros) -> log_p, inputs`; and the layers' outputs."""
    keyed, treedef = jax.tree_util.tree_flatten_with_path(theta)
    paths = tuple(path_of(path) for path, _ in keyed)
    closed = jax.make_jaxpr(log_probs_fn)(theta, x)
    x_leaves = jax.tree.leaves(x)

    def evaluate(leaves, is_followed, visit, refuse):
        args = [
            View(path, leaves[path], lambda leaf: leaf)
            if is_followed(path)
            else leaves[path]
            for path in paths
        ]
        (log_p,) = evaluate_views(
            closed.jaxpr, closed.consts, [*args, *x_leaves], visit, refuse
        )
        if isinstance(log_p, View):
            refuse(log_p.path, "returned")
            return log_p.value
        return log_p

    uses: dict[str, list[Use]] = {path: [] for path in paths}
    rest: dict[str, str] = {}

    def trace(leaves):
        outputs = {path: [] for path in paths}

        def visit(layer, view, x, y):
            uses[view.path].append(_use(layer, view, leaves[view.path], x, y))
            outputs[view.path].append(y)
            return y

        evaluate(leaves, lambda path: True, visit, rest.setdefault)
        return outputs

    leaves = {path: leaf for path, (_, leaf) in zip(paths, keyed, strict=True)}
    outputs = jax.eval_shape(trace, leaves)
    for path in paths:
        if not uses[path]:
            rest.setdefault(path, "not used")
    rest = {path: rest[path] for path in paths if path in rest}
    covered = [path for path in paths if path not in rest]

    def run(leaves, zeros):
        inputs = {path: [] for path in covered}

        def visit(layer, view, x, y):
            inputs[view.path].append(x)
            return y + zeros[view.path][len(inputs[view.path]) - 1]

        def refuse(path, reason):
            raise AssertionError(f"{path} is {reason}, which the plan overlooked")

        return evaluate(leaves, covered.__contains__, visit, refuse), inputs

    found = Plan({path: tuple(uses[path]) for path in covered}, rest, treedef, paths)
    return found, run, {path: outputs[path] for path in covered}


def _use(layer: Layer, view: View, leaf: Any, x: Any, y: Any) -> Use:
    shape, dtype = leaf.shape, leaf.dtype

    def to_leaf(gradient: jax.Array) -> jax.Array:
        kernel = layer.to_kernel(gradient).astype(dtype)
        return jax.linear_transpose(view.of, kernel.reshape(shape))(kernel)[0]

    a, d = jax.eval_shape(layer.to_inputs, x), jax.eval_shape(layer.to_errors, y)
    (positions, num_inputs), num_outputs = a.shape, d.shape[1]
    return Use(
        layer.kind,
        positions,
        num_inputs,
        num_outputs,
        layer.to_inputs,
        layer.to_errors,
        to_leaf,
    )
