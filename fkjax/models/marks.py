"""Marks on the outputs of layers, which can be tapped within remat and scan, too.

Within a transformation of JAX, the output of a layer cannot be given to a function
outside. There, the output is marked instead: it passes through an identity that has the
name of the layer. `evaluate` then runs the jaxpr of the network, and opens the
transformations that contain the wanted outputs: the body of a `remat` is evaluated in
place, and a `scan` is cut into the wanted steps and scans of the steps between.
"""

import collections
import itertools
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from fkjax.base import UserError
from fkjax.fisher.layers import CALLS, apply_equation

_PREFIX = "fkjax "


class Call(NamedTuple):
    """A call of a layer, found by its mark.

    Attributes:
        name: name of the layer.
        num_axes: number of axes of the marked output.
        is_inside: whether the call is within a transformation or a compiled function.
        is_scanned: whether it is a step of a scan over layers, each with weights of its
            own.
        obstacle: reason why the output cannot be tapped; empty if it can be.
    """

    name: str
    num_axes: int
    is_inside: bool = False
    is_scanned: bool = False
    obstacle: str = ""


def mark(name: str, output: jax.Array) -> jax.Array:
    """Returns the output of a layer, marked with the layer's name."""
    return checkpoint_name(output, _PREFIX + name)


def _name_of(eqn: Any) -> str | None:
    """Returns the name of the layer whose output an equation marks."""
    name = eqn.params.get("name") if eqn.primitive.name == "name" else None
    return name.removeprefix(_PREFIX) if name and name.startswith(_PREFIX) else None


def calls(jaxpr: Any, is_parameter: Sequence[bool]) -> list[Call]:
    """Lists the calls of layers in a jaxpr, in the order in which they return.

    Args:
        jaxpr: the jaxpr.
        is_parameter: whether each of its arguments is a parameter. A scan over arrays
            that are computed from parameters only is a scan over layers.
    """
    return _calls(jaxpr, is_parameter)[0]


def _calls(jaxpr: Any, is_parameter: Sequence[bool]) -> tuple[list[Call], list[bool]]:
    """Returns the calls, and whether each output is computed from parameters only."""
    found: list[Call] = []
    weights = {v for v, flag in zip(jaxpr.invars, is_parameter, strict=True) if flag}
    for eqn in jaxpr.eqns:
        read = [v for v in eqn.invars if not isinstance(v, jex.Literal)]
        flags = [v in weights for v in read]
        are_weights = [bool(flags) and all(flags)] * len(eqn.outvars)
        name = eqn.primitive.name
        if layer := _name_of(eqn):
            found.append(Call(layer, len(eqn.outvars[0].aval.shape)))
        elif name in CALLS:
            operands = [
                not isinstance(v, jex.Literal) and v in weights for v in eqn.invars
            ]
            inner, are_weights = _calls(_open(eqn.params[CALLS[name]]), operands)
            found += [call._replace(is_inside=True) for call in inner]
        elif name == "scan":
            found += _scanned(eqn, weights)
        else:
            for body in _bodies(eqn):
                inner, _ = _calls(body, [False] * len(body.invars))
                obstacle = f"is called within {name}"
                found += [
                    call._replace(is_inside=True, obstacle=call.obstacle or obstacle)
                    for call in inner
                ]
        weights |= {v for v, flag in zip(eqn.outvars, are_weights, strict=True) if flag}
    outputs = [not isinstance(v, jex.Literal) and v in weights for v in jaxpr.outvars]
    return found, outputs


def _scanned(eqn: Any, weights: Collection[Any]) -> list[Call]:
    num_fixed = eqn.params["num_consts"] + eqn.params["num_carry"]
    are_weights = [
        i >= num_fixed and not isinstance(v, jex.Literal) and v in weights
        for i, v in enumerate(eqn.invars)
    ]
    inner, _ = _calls(eqn.params["jaxpr"].jaxpr, are_weights)
    inner = [call._replace(is_inside=True) for call in inner]
    if any(are_weights):
        return [x._replace(is_scanned=True) for x in inner] * eqn.params["length"]
    obstacle = "is called in a loop with the same weights"
    return [call._replace(obstacle=call.obstacle or obstacle) for call in inner]


def _open(body: Any) -> Any:
    return body.jaxpr if isinstance(body, jex.ClosedJaxpr) else body


def _bodies(eqn: Any) -> Iterator[Any]:
    """Iterates over the jaxprs in the parameters of an equation."""
    for value in eqn.params.values():
        for body in value if isinstance(value, tuple | list) else [value]:
            if isinstance(body, jex.ClosedJaxpr | jex.Jaxpr):
                yield _open(body)


def evaluate(
    closed: Any,
    args: Sequence[Any],
    wanted: Collection[tuple[str, int]],
    tap: Callable[[str, int, jax.Array], jax.Array],
) -> list[Any]:
    """Evaluates a jaxpr, and calls a tap on the outputs of some layers.

    Args:
        closed: the jaxpr, with its constants.
        args: its arguments.
        wanted: calls to tap, as names of layers and numbers of the call of that layer,
            from 0. None of them may have an obstacle.
        tap: function `tap(name, number, output) -> output`.

    Returns:
        The outputs.
    """
    seen: collections.Counter[str] = collections.Counter()

    def is_wanted(inside: collections.Counter[str]) -> bool:
        return any(
            (name, seen[name] + i) in wanted
            for name in inside
            for i in range(inside[name])
        )

    def run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        variables = [*jaxpr.constvars, *jaxpr.invars]
        values = dict(zip(variables, [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            operands = [
                v.val if isinstance(v, jex.Literal) else values[v] for v in eqn.invars
            ]
            inside = _count(eqn)
            if not is_wanted(inside):
                results = apply_equation(jaxpr, eqn, operands)
                seen.update(inside)
            elif name := _name_of(eqn):
                results = [tap(name, seen[name], operands[0])]
                seen[name] += 1
            elif eqn.primitive.name == "scan":
                results = scan(eqn, operands)
            else:
                body = eqn.params[CALLS[eqn.primitive.name]]
                consts = body.consts if isinstance(body, jex.ClosedJaxpr) else ()
                results = run(_open(body), consts, operands)
            values.update(zip(eqn.outvars, results, strict=True))
        return [
            v.val if isinstance(v, jex.Literal) else values[v] for v in jaxpr.outvars
        ]

    def scan(eqn: Any, operands: Sequence[Any]) -> list[Any]:
        body, length, reverse = (eqn.params[k] for k in ("jaxpr", "length", "reverse"))
        num_consts, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
        consts, rest = operands[:num_consts], operands[num_consts:]
        carry, xs = list(rest[:num_carry]), rest[num_carry:]
        of_step = sum(map(_count, body.jaxpr.eqns), collections.Counter())
        before, parts = collections.Counter(seen), []

        def is_cut(number: int) -> bool:
            return any(
                (name, before[name] + number * num + i) in wanted
                for name, num in of_step.items()
                for i in range(num)
            )

        def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = jex.jaxpr_as_fun(body)(*consts, *carry, *x)
            return outputs[:num_carry], outputs[num_carry:]

        for start, stop in _spans(length, is_cut):
            at = (length - stop, length - start) if reverse else (start, stop)
            part = [x[slice(*at)] for x in xs]
            if is_cut(start):
                one = [*consts, *carry, *(x[0] for x in part)]
                outputs = run(body.jaxpr, body.consts, one)
                carry, ys = outputs[:num_carry], [y[None] for y in outputs[num_carry:]]
            else:
                num = stop - start
                carry, ys = jax.lax.scan(step, carry, part, num, reverse)
                seen.update({name: num * times for name, times in of_step.items()})
            parts.append(ys)
        ordered = parts[::-1] if reverse else parts
        return [*carry, *(jnp.concatenate(ys) for ys in zip(*ordered, strict=True))]

    outputs = run(closed.jaxpr, closed.consts, args)
    require([name for name, number in wanted], +seen)
    return outputs


def require(names: Iterable[str], found: Container[str]) -> None:
    """Checks that layers were found in a trace.

    Raises:
        UserError: if one was not, because JAX had traced the function that calls it
            before, such as one of `jax.jit` that has the layer in its closure.
    """
    if missing := sorted({name for name in names if name not in found}):
        raise UserError(
            f"the calls of {', '.join(missing)} are not seen, because they are in a "
            "function that JAX has compiled before, such as one of jax.jit: use the "
            "jit of Flax there, or none"
        )


def _spans(length: int, is_cut: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """Divides steps into single ones that are cut and runs of the others."""
    for cut, steps in itertools.groupby(range(length), is_cut):
        steps = list(steps)
        if cut:
            yield from ((step, step + 1) for step in steps)
        else:
            yield steps[0], steps[-1] + 1


def _count(eqn: Any) -> collections.Counter[str]:
    """Counts the calls of each layer in an equation."""
    if name := _name_of(eqn):
        return collections.Counter([name])
    inside = sum(
        (_count(e) for body in _bodies(eqn) for e in body.eqns), collections.Counter()
    )
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    return collections.Counter({name: times * num for name, num in inside.items()})
