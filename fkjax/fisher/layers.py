"""Dense and convolution layers, found in the jaxpr of a function.

A jaxpr is evaluated with some of its inputs marked as parameters. A value keeps its
mark through reshapes, transpositions, changes of precision and function calls. An
equation is a layer if it is a matrix product or a convolution of a marked value and an
unmarked one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap


class ParameterView(NamedTuple):
    """A parameter, possibly reshaped or transposed.

    Attributes:
        path: path of the parameter.
        value: the parameter in its current shape.
        of: function from the parameter to its current shape, which only moves elements.
    """

    path: str
    value: jax.Array
    of: Callable[[jax.Array], jax.Array]


class LinearMap(NamedTuple):
    """A linear map y = layer(x, kernel), in terms of matrices.

    With a = `to_inputs(x)` of shape [T, m] and d = `to_errors(dy)` of shape [T, n],
    the gradient of the kernel is `to_kernel(a^T d)`.

    Attributes:
        kind: kind of the layer, "dense" or "convolution".
        to_inputs: function from x to a.
        to_errors: function from an error of y to d.
        to_kernel: function from shape [m, n] to the shape of the kernel.
    """

    kind: str
    to_inputs: Callable[[jax.Array], jax.Array]
    to_errors: Callable[[jax.Array], jax.Array]
    to_kernel: Callable[[jax.Array], jax.Array]


Visit = Callable[[LinearMap, ParameterView, jax.Array, jax.Array], jax.Array]
"""A function `visit(layer, kernel, x, y) -> y`, called at each layer; it may add to the
output y."""

Refuse = Callable[[str, str], Any]
"""A function `refuse(path, reason)`, called at each other use of a parameter."""

CALLS = {  # primitives that only call a function, and the parameter that holds it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}

_MOVES = {"reshape", "transpose", "squeeze", "expand_dims", "rev", "copy"}

_REGISTERED: list[Any] = []


def register_convolution(fn: Any) -> Any:
    """Registers a function with custom derivatives as a convolution; a decorator.

    Args:
        fn: a `jax.custom_vjp` function that computes the correlation of x [N, H, W, C]
            and kernel [kh, kw, C, O] without padding and with stride 1.

    Returns:
        The function itself.
    """
    _REGISTERED.append(fn)
    return fn


def evaluate_views(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], visit: Visit, refuse: Refuse
) -> list[Any]:
    """Evaluates a jaxpr, some of whose arguments are views of parameters.

    Args:
        jaxpr: the jaxpr.
        consts: values of its constants.
        args: its arguments: arrays and views.
        visit: function that is called at each layer.
        refuse: function that is called at each other use of a view.

    Returns:
        The outputs: arrays, and views for parameters that the jaxpr returns.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        views = [x for x in operands if isinstance(x, ParameterView)]
        arrays = [x.value if isinstance(x, ParameterView) else x for x in operands]
        name = eqn.primitive.name
        if views and name in CALLS:
            body, body_consts = eqn.params[CALLS[name]], ()
            if isinstance(body, jex.ClosedJaxpr):
                body, body_consts = body.jaxpr, body.consts
            results = evaluate_views(body, body_consts, operands, visit, refuse)
        elif views and (moved := _moved(eqn, views[0])):
            results = [moved]
        elif len(views) == 1 and (layer := _layer(eqn, operands)):
            x = arrays[0 if isinstance(operands[1], ParameterView) else 1]
            (y,) = apply_equation(jaxpr, eqn, arrays)
            results = [visit(layer, views[0], x, y)]
        else:
            for view in views:
                refuse(view.path, f"used by {name}")
            results = apply_equation(jaxpr, eqn, arrays)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def apply_equation(
    jaxpr: Any, eqn: Any, operands: Sequence[jax.Array]
) -> list[jax.Array]:
    """Evaluates one equation of any kind, and keeps its custom derivatives."""
    args = {
        atom: x
        for atom, x in zip(eqn.invars, operands, strict=True)
        if not isinstance(atom, jex.Literal)
    }
    one = jaxpr.replace(
        constvars=[], invars=list(args), outvars=list(eqn.outvars), eqns=[eqn]
    )
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(one, []))(*args.values())


def _moved(eqn: Any, view: ParameterView) -> ParameterView | None:
    """Returns the view after an equation that only moves elements, or None."""
    name, (out,) = eqn.primitive.name, eqn.outvars[:1]

    def bind(x: jax.Array) -> jax.Array:
        return eqn.primitive.bind(x, **eqn.params)

    if name == "convert_element_type" and _is_real(view.value) and _is_real(out.aval):
        return ParameterView(view.path, bind(view.value), view.of)
    keeps_all = name in _MOVES or (
        name == "broadcast_in_dim" and out.aval.size == view.value.size
    )
    if not keeps_all:
        return None
    return ParameterView(view.path, bind(view.value), lambda leaf: bind(view.of(leaf)))


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _layer(eqn: Any, operands: Sequence[Any]) -> LinearMap | None:
    """Returns the layer of an equation with one view among its operands, or None."""
    name, params = eqn.primitive.name, eqn.params
    side = [isinstance(x, ParameterView) for x in operands].index(True)
    if name == "dot_general" and not params["dimension_numbers"][1][0]:
        return _dense(params, operands, side)
    if name == "conv_general_dilated" and side == 1:
        if params["feature_group_count"] == params["batch_group_count"] == 1:
            return _convolution(operands[1].value, **params)
    if name == "custom_vjp_call" and side == 1 and _is_registered(params):
        return _convolution(operands[1].value)
    return None


def _is_registered(params: dict[str, Any]) -> bool:
    rule = getattr(params["bwd"], "f", None)
    return rule is not None and any(rule is fn.bwd for fn in _REGISTERED)


def _dense(params: dict[str, Any], operands: Sequence[Any], side: int) -> LinearMap:
    contracted = params["dimension_numbers"][0]
    kernel, x = operands[side].value, operands[1 - side]
    x_free = [i for i in range(x.ndim) if i not in contracted[1 - side]]
    kernel_free = [i for i in range(kernel.ndim) if i not in contracted[side]]

    def to_inputs(x: jax.Array) -> jax.Array:
        x = x.transpose(*x_free, *contracted[1 - side])
        return _matrix(x, len(x_free))

    def to_errors(y: jax.Array) -> jax.Array:
        return _matrix(y, len(x_free)) if side else _matrix(y, len(kernel_free)).T

    order = (*contracted[side], *kernel_free)
    return LinearMap("dense", to_inputs, to_errors, _untransposed(kernel.shape, order))


def _convolution(
    kernel: jax.Array,
    *,
    window_strides: Sequence[int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    dimension_numbers: Any = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    **_: Any,
) -> LinearMap:
    """Returns the layer of a `lax.conv_general_dilated` without groups.

    The defaults are layouts NHWC and HWIO, stride 1 and no padding or dilation.
    """
    x_spec, kernel_spec, y_spec = dimension_numbers
    x_batch, x_channel, *x_space = x_spec
    k_out, k_in, *k_space = kernel_spec
    y_batch, y_channel, *y_space = y_spec
    sizes = [kernel.shape[axis] for axis in k_space]

    def to_inputs(x: jax.Array) -> jax.Array:
        x = x.transpose(x_batch, *x_space, x_channel)
        around = zip(padding, lhs_dilation, strict=True)
        config = [(low, high, step - 1) for (low, high), step in around]
        if any(map(any, config)):
            x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
        return _matrix(_patches(x, sizes, window_strides, rhs_dilation), x.ndim - 1)

    def to_errors(y: jax.Array) -> jax.Array:
        return _matrix(y.transpose(y_batch, *y_space, y_channel), y.ndim - 1)

    order = (*k_space, k_in, k_out)
    return LinearMap(
        "convolution", to_inputs, to_errors, _untransposed(kernel.shape, order)
    )


def _matrix(x: jax.Array, num_rows: int) -> jax.Array:
    """Reshapes an array to a matrix: the first axes to rows, the others to columns."""
    x = lax.collapse(x, 0, num_rows)
    return lax.collapse(x, 1, x.ndim)


def _untransposed(shape: Sequence[int], order: Sequence[int]):
    """Returns a function from a matrix to an array of `shape`.

    The matrix holds the array transposed by `order`.
    """
    transposed = [shape[axis] for axis in order]
    inverse = [order.index(axis) for axis in range(len(order))]
    return lambda matrix: matrix.reshape(transposed).transpose(inverse)


def _patches(
    x: jax.Array, sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> jax.Array:
    """Gathers the patch at each kernel position: [N, H, W, C] -> [N, H', W', kh kw C].

    It works for any number of spatial axes. The examples, including those of `vmap`,
    are the last axis in memory, which is fast on CPUs.
    """

    @custom_vmap
    def gather(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, (0, -1), (-1, 0))  # [C, H, W, N]
        for axis in range(len(sizes), 0, -1):
            size, stride, step = (v[axis - 1] for v in (sizes, strides, dilations))
            extent = (x.shape[axis] - (size - 1) * step - 1) // stride * stride + 1
            x = jnp.concatenate(
                [
                    lax.slice_in_dim(x, start, start + extent, stride, axis)
                    for start in range(0, size * step, step)
                ]
            )
        return jnp.moveaxis(x, (0, -1), (-1, 0))

    @gather.def_vmap
    def rule(axis_size: int, is_mapped: Sequence[bool], x: jax.Array):
        del axis_size, is_mapped
        y = gather(lax.collapse(x, 0, 2))
        return y.reshape(*x.shape[:2], *y.shape[1:]), True

    return gather(x)
