"""Fisher vectors in factored form: the inputs and the output errors of each layer.

The gradient of a layer's kernel is a sum of outer products over the T positions at
which the kernel is applied (one for a dense layer, H' W' for a convolution):

    G = sum_t a_t d_t^T,      a_t = input, d_t = d log p(s | x) / d output.

Inner products and projections of G can often be computed without forming G. One forward
and one backward pass give the factors of all kernels and the plain gradients of all
other parameters, without computing the gradient of any kernel: zeros are added to the
outputs of the layers, and the errors are the derivatives with respect to these zeros.

The layers are found in the jaxpr of the function. Each leaf of theta is followed
through reshapes and transpositions to the matrix products and convolutions that use
it. A leaf that is used in any other way is differentiated as usual.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import LogProbs, path_of
from fkjax.fisher.factors import Factors, weight_gradient
from fkjax.fisher.labels import class_weights
from fkjax.fisher.layers import LinearMap, ParameterView, evaluate_views
from fkjax.fisher.order import keeps_order


class Captured(NamedTuple):
    """A Fisher vector in which the gradients of kernels are kept as factors.

    Attributes:
        factors: factors of each captured leaf, by path; one entry for each use.
        rest: gradients of all other leaves, by path.
    """

    factors: dict[str, tuple[Factors, ...]]
    rest: dict[str, jax.Array]


class Use(NamedTuple):
    """The use of a kernel by a layer.

    Attributes:
        kind: kind of the layer, "dense" or "convolution".
        positions: number of positions, T.
        num_inputs: number of inputs, m.
        num_outputs: number of outputs, n.
        to_inputs: function from the layer's input to a. Shape [T, m].
        to_errors: function from the error of the layer's output to d. Shape [T, n].
        to_leaf: function from a gradient of shape [m, n] to the shape of the leaf.
    """

    kind: str
    positions: int
    num_inputs: int
    num_outputs: int
    to_inputs: Callable[[jax.Array], jax.Array]
    to_errors: Callable[[jax.Array], jax.Array]
    to_leaf: Callable[[jax.Array], jax.Array]


class Plan(NamedTuple):
    """The leaves that are captured as factors, and their uses; can be printed.

    Attributes:
        uses: uses of each captured leaf, by path. A leaf is captured only if all its
            uses are.
        rest: reason why each other leaf is not captured, by path.
        treedef: tree structure of theta.
        paths: paths of all leaves, in the order of theta.
    """

    uses: dict[str, tuple[Use, ...]]
    rest: dict[str, str]
    treedef: Any
    paths: tuple[str, ...]

    def __str__(self) -> str:
        """Returns one line for each use of a captured leaf and each other leaf."""
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
    """Finds the layers of a function without computing its values.

    >>> def log_probs_fn(theta, x):
    ...     return jax.nn.log_softmax(x @ theta["kernel"] + theta["bias"])
    >>> theta = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
    >>> print(plan(log_probs_fn, theta, jnp.ones(3)))
    bias    plain: used by add
    kernel  dense T=1 m=3 n=2

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        x: one example.

    Returns:
        The plan.
    """
    return _prepare(log_probs_fn, theta, x)[0]


def forward(
    log_probs_fn: LogProbs, theta: Any, x: Any, *, is_once: bool = True
) -> tuple[jax.Array, Callable[[jax.Array], Captured]]:
    """Runs the forward pass, and returns a function for the backward pass.

    This allows the label to be chosen from the log-probabilities.

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        x: one example.
        is_once: whether the backward pass runs once, so that patches of convolutions
            are not kept for it, but gathered when it needs them.

    Returns:
        log p(y | x), of shape [C], and a function `backward(weights)` that returns the
        captured gradient of the log-probabilities' weighted sum, with weights of shape
        [C].
    """
    log_p, pull = _linearized(log_probs_fn, theta, x, is_once=is_once)
    return log_p, lambda weights: _joined(*pull(weights))


def capture(log_probs_fn: LogProbs, theta: Any, x: Any, label: jax.Array) -> Captured:
    """Computes a Fisher vector in factored form, by one forward and one backward pass.

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        x: one example.
        label: label or pseudo-label s. Shape [].

    Returns:
        The captured gradient of log p(s | x, theta). If the label is not a class, it is
        NaN.

    Raises:
        ValueError: if the label is not a class and its value is known.
    """
    log_p, backward = forward(log_probs_fn, theta, x)
    return backward(class_weights(label, log_p))


def capture_all_classes(log_probs_fn: LogProbs, theta: Any, x: Any) -> Captured:
    """Computes the factored Fisher vectors of one example under each of the C labels.

    This takes one forward and C backward passes.

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: parameters, any pytree of arrays.
        x: one example.

    Returns:
        The captured gradients, with a leading axis C on each error d and each plain
        gradient. The inputs a have no such axis, because they are the same for all
        classes.
    """
    log_p, pull = _linearized(log_probs_fn, theta, x, is_once=False)
    each = jax.vmap(pull, out_axes=(None, 0, 0))
    return _joined(*each(jnp.eye(log_p.size, dtype=log_p.dtype)))


def gradient_of(use: Use, factors: Factors) -> jax.Array:
    """Computes the gradient that one use contributes, in the shape of the leaf.

    Args:
        use: a use from the plan.
        factors: factors of that use. Leading axes of d, such as classes, are kept.

    Returns:
        The gradient, in the shape of the leaf after any leading axes of d.
    """
    a, d = factors
    if d.ndim > 2:
        return jax.vmap(lambda d: gradient_of(use, Factors(a, d)))(d)
    return use.to_leaf(weight_gradient(a, d))


def is_plain(uses: tuple[Use, ...]) -> bool:
    """Returns whether the leaf's gradient is the sum of a^T d up to a reshape."""
    return all(
        keeps_order(use.to_leaf, (use.num_inputs, use.num_outputs)) for use in uses
    )


def matrix_of(uses: tuple[Use, ...]) -> tuple[int, int] | None:
    """Returns the shape [m, n] in which all uses take a leaf as it is stored.

    It may differ from the shape of the leaf: attention stores [d, heads, n], and
    multiplies by [d, heads n].

    Returns:
        The shape, or None if a use takes the leaf transposed, or two uses differ.
    """
    shapes = {(use.num_inputs, use.num_outputs) for use in uses}
    return shapes.pop() if len(shapes) == 1 and is_plain(uses) else None


def leaf_gradient(uses: tuple[Use, ...], factors: tuple[Factors, ...]) -> jax.Array:
    """Computes the gradient of one leaf, as the sum over its uses."""
    terms = zip(uses, factors, strict=True)
    first, *others = (gradient_of(use, f) for use, f in terms)
    return sum(others, first)


def gradient(plan: Plan, captured: Captured) -> Any:
    """Computes the Fisher vector from its factors, as a pytree like theta."""
    leaves = dict(captured.rest)
    for path, uses in plan.uses.items():
        leaves[path] = leaf_gradient(uses, captured.factors[path])
    return plan.treedef.unflatten([leaves[path] for path in plan.paths])


_Arrays = dict[str, tuple[jax.Array, ...]]


def _joined(a: _Arrays, d: _Arrays, rest: dict[str, jax.Array]) -> Captured:
    return Captured({path: tuple(map(Factors, a[path], d[path])) for path in a}, rest)


def _linearized(
    log_probs_fn: LogProbs, theta: Any, x: Any, *, is_once: bool
) -> tuple[jax.Array, Callable[[jax.Array], tuple[_Arrays, _Arrays, Any]]]:
    """Returns log p(y | x) and a function for the backward pass.

    That function, `pull(weights)`, returns the inputs a, the errors d and the other
    gradients.
    """
    found, run, outputs = _prepare(log_probs_fn, theta, x)
    leaves = dict(zip(found.paths, jax.tree.leaves(theta), strict=True))
    log_p, pull_all, inputs = jax.vjp(
        lambda rest, zeros: run({**leaves, **rest}, zeros),
        {path: leaves[path] for path in found.rest},
        jax.tree.map(jnp.zeros_like, outputs),
        has_aux=True,
    )

    def pull(weights: jax.Array) -> tuple[_Arrays, _Arrays, Any]:
        rest, errors = pull_all(weights)
        a: _Arrays = {}
        d: _Arrays = {}
        for path, uses in found.uses.items():
            each = list(zip(uses, inputs[path], errors[path], strict=True))
            a[path] = tuple(
                use.to_inputs(_after(x, y) if is_once and _is_large(use) else x)
                for use, x, y in each
            )
            d[path] = tuple(use.to_errors(y) for use, _, y in each)
        return a, d, rest

    return log_p, pull


def _is_large(use: Use) -> bool:
    """Returns whether the patches of a convolution are larger than the gradient."""
    return use.kind == "convolution" and use.positions > use.num_outputs


def _after(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x, which is not used before y is known.

    XLA removes a barrier on CPU before it orders operations. It then gathers the
    patches of all layers in the forward pass, and keeps them for the backward pass.
    """
    return x + (0 * y.ravel()[:1].reshape((1,) * x.ndim)).astype(x.dtype)


def _prepare(log_probs_fn: LogProbs, theta: Any, x: Any):
    """Returns the plan, a function to run it, and the shapes of the layers' outputs.

    That function is `run(leaves, zeros) -> log_p, inputs`.
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(theta)
    paths = tuple(path_of(path) for path, _ in keyed)
    closed = jax.make_jaxpr(log_probs_fn)(theta, x)
    x_leaves = jax.tree.leaves(x)

    def evaluate(leaves, is_followed, visit, refuse):
        args = [
            ParameterView(path, leaves[path], lambda leaf: leaf)
            if is_followed(path)
            else leaves[path]
            for path in paths
        ]
        (log_p,) = evaluate_views(
            closed.jaxpr, closed.consts, [*args, *x_leaves], visit, refuse
        )
        if isinstance(log_p, ParameterView):
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


def _use(layer: LinearMap, view: ParameterView, leaf: Any, x: Any, y: Any) -> Use:
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
