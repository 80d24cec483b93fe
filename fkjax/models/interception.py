"""Interception of the outputs of the layers of a Flax module.

Linen provides interceptors. NNX does not: there, the layers of a copy of the module get
a subclass of their class whose `__call__` passes the output to a callback.
"""

import contextvars
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen
import jax
from flax import nnx
from flax.core import FrozenDict, unfreeze

from fkjax.base import UserError, Variables
from fkjax.models.saved import fitted_state

INFERENCE = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}
"""Values of arguments of `__call__` in inference, by the names of the arguments."""

Seen = Callable[[str, Any, Any], Any]
"""`seen(name, layer, output) -> output`: a callback for each call of a layer."""


class Network(NamedTuple):
    """A Flax module as pure functions.

    Attributes:
        variables: the parameters and batch statistics of the module.
        run: `run(variables, inputs, seen) -> logits`.
    """

    variables: Variables
    run: Callable[[Variables, jax.Array, Seen], Any]


def network_of(module: Any, variables: Any, apply_kwargs: Mapping[str, Any]) -> Network:
    """Converts a module to pure functions for inference, with callbacks for layers.

    Args:
        module: a Flax NNX or Linen module.
        variables: see `fkjax.models.from_module`.
        apply_kwargs: further arguments of the module's `__call__`, which override those
            of `INFERENCE`.

    Returns:
        The module as pure functions.

    Raises:
        UserError: if `module` is not an instance of such a module, or the variables do
            not fit.
    """
    if isinstance(module, nnx.Module):
        return _nnx(module, variables, _arguments(module, apply_kwargs))
    if isinstance(module, flax.linen.Module):
        return _linen(module, variables, _arguments(module, apply_kwargs))
    raise UserError(
        "the module must be an instance of a Flax NNX or Linen module, got "
        f"{module.__name__ if isinstance(module, type) else type(module).__name__}"
    )


def _arguments(module: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `__call__` in inference."""
    _, *parameters = inspect.signature(type(module).__call__).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    by_name = {p.name for p in parameters if p.kind not in positional}
    return {k: v for k, v in INFERENCE.items() if k in by_name} | dict(given)


def _linen(
    module: flax.linen.Module, variables: Any, kwargs: dict[str, Any]
) -> Network:
    if not isinstance(variables, dict | FrozenDict):
        raise UserError(
            "a Linen module needs the dict of its variables, as returned by "
            f"module.init, got {type(variables).__name__}"
        )
    held = flax.linen.meta.unbox(unfreeze(variables))
    if "params" not in held:
        held = {"params": held}
    learned = {"params", "batch_stats"}
    constants = {name: held[name] for name in held if name not in learned}

    def run(variables: Variables, inputs: jax.Array, seen: Seen) -> Any:
        running = set()

        def intercept(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
            path = context.module.path
            # A call of the parent class by super() is part of this call.
            if context.method_name != "__call__" or not path or path in running:
                return call(*args, **kwargs)
            running.add(path)
            output = call(*args, **kwargs)
            running.remove(path)
            return seen("/".join(path), context.module, output)

        parameters, statistics = variables
        state = {**constants, "params": parameters, "batch_stats": statistics}
        with flax.linen.intercept_methods(intercept):
            return module.apply(state, inputs, **kwargs)

    return Network(Variables(held["params"], held.get("batch_stats", {})), run)


def _nnx(module: nnx.Module, variables: Any, kwargs: dict[str, Any]) -> Network:
    copy = nnx.merge(*nnx.split(module))
    copy.eval()
    graph, *own, constants = nnx.split(copy, nnx.Param, nnx.BatchStat, ...)
    if variables is not None:
        given = fitted_state(variables, module, source="the dict of variables")
        nnx.replace_by_pure_dict(state := nnx.merge_state(*own), given)
        own = nnx.split_state(state, nnx.Param, nnx.BatchStat)

    def run(variables: Variables, inputs: jax.Array, seen: Seen) -> Any:
        module: Any = nnx.merge(graph, *map(nnx.State, variables), copied(constants))
        names = {}
        for path, layer in list(nnx.iter_graph(module)):
            if path and isinstance(layer, nnx.Module) and callable(layer):
                names[id(layer)] = "/".join(map(str, path))
                object.__setattr__(layer, "__class__", _watched(type(layer)))

        def seen_of(layer: nnx.Module, output: Any) -> Any:
            # A transformation calls a copy of the layer, which is not in `names`.
            name = names.get(id(layer))
            return output if name is None else seen(name, layer, output)

        token = _seen_now.set(seen_of)
        try:
            return module(inputs, **kwargs)
        finally:
            _seen_now.reset(token)

    return Network(Variables(*map(nnx.to_pure_dict, own)), run)


def copied(state: Any) -> Any:
    """Returns a copy of an NNX state, whose variables may be changed in a pass.

    A recurrent layer counts the numbers that it draws. Within a transformation of JAX,
    NNX allows that only for variables that were made there.
    """
    return jax.tree.map(lambda leaf: leaf, state)


_seen_now: contextvars.ContextVar[Callable[[Any, Any], Any]] = contextvars.ContextVar(
    "callback for the outputs of intercepted layers"
)


@functools.cache
def _watched(kind: type) -> type:
    """Returns the subclass of a layer's class whose calls are intercepted."""

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _seen_now.get()(self, kind.__call__(self, *args, **kwargs))

    is_pytree = getattr(kind, "_pytree__is_pytree", True)
    return types.new_class(
        kind.__name__,
        (kind,),
        {} if is_pytree else {"pytree": False},
        lambda namespace: namespace.update(__call__=call, __module__=kind.__module__),
    )
