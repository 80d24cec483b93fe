"""Whether a function that moves the elements of a matrix keeps their order.

The answer takes no arrays. An axis is a list of digits (size, stride), outermost first:
its index, written in these digits, has this position in the matrix. At the start, the
two axes of a matrix [m, n] are the digits (m, n) and (n, 1). A transposition moves
axes, and a reshape merges and splits digits.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

_Digits = list[tuple[int, int]]

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}


def keeps_order(fn: Callable[[jax.Array], jax.Array], shape: tuple[int, int]) -> bool:
    """Returns whether `fn(x)` has the elements of x in their order, up to a reshape.

    >>> keeps_order(lambda x: x.reshape(2, 3, 4)[None], (6, 4))
    True
    >>> keeps_order(lambda x: x.T, (6, 4))
    False

    Args:
        fn: function that moves elements, by reshapes and transpositions.
        shape: shape of x.

    Returns:
        False also if the function does anything else.
    """
    traced = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct(shape, jnp.float32))
    m, n = shape
    axes = _evaluated(traced.jaxpr, [[(m, n)], [(n, 1)]])
    return axes is not None and len(_merged(sum(axes, []))) <= 1


def _evaluated(jaxpr: Any, axes: list[_Digits]) -> list[_Digits] | None:
    """Returns the axes of the output, or None if it has other elements or values."""
    (argument,), (output,) = jaxpr.invars, jaxpr.outvars
    values = {argument: axes}
    for eqn in jaxpr.eqns:
        known = [
            values[x]
            for x in eqn.invars
            if not isinstance(x, jex.Literal) and x in values
        ]
        if not known:  # it computes something else
            continue
        after = _after(eqn, known[0]) if len(eqn.invars) == 1 else None
        if after is None:
            return None
        values[eqn.outvars[0]] = after
    return values.get(output)


def _after(eqn: Any, axes: list[_Digits]) -> list[_Digits] | None:
    """Returns the axes after an equation of one argument, or None."""
    name, params, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
    if name in _CALLS:
        body = params[_CALLS[name]]
        return _evaluated(getattr(body, "jaxpr", body), axes)
    if name in ("convert_element_type", "copy", "copy_p"):
        return axes
    if name == "transpose":
        return [axes[axis] for axis in params["permutation"]]
    # Any other move only changes axes of length 1, or the boundaries of axes.
    if name in ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "reduce_sum"):
        return _split(_merged(sum(axes, [])), shape)
    return None


def _merged(digits: _Digits) -> _Digits:
    """Merges neighbors that are one digit of the matrix, and drops digits of size 1."""
    merged: _Digits = []
    for size, stride in digits:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = merged[-1][0] * size, stride
        else:
            merged.append((size, stride))
    return merged


def _split(digits: _Digits, shape: Sequence[int]) -> list[_Digits] | None:
    """Divides digits among axes, or returns None if an axis has a part of a digit."""
    digits, axes = list(digits), []
    for length in shape:
        axis: _Digits = []
        while length > 1:
            if not digits:
                return None
            size, stride = digits.pop(0)
            if size > length and size % length == 0:
                digits.insert(0, (size // length, stride))
                size, stride = length, stride * (size // length)
            if length % size:
                return None
            axis.append((size, stride))
            length //= size
        axes.append(axis)
    return None if digits else axes
