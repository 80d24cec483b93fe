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

Seen = Callable[[str, Any, Any, tuple[str, ...]], Any]
"""`seen(name, layer, output, around) -> output`: a callback for each call of a layer.

`around` are the names of the layers in whose calls it is called, the outermost first.
"""


class Network(NamedTuple):
    """A Flax module as pure functions.

    Attributes:
        variables: the parameters and batch statistics of the module.
        run: `run(variables, inputs, seen, purpose) -> logits`. If the inputs are a dict
            whose names are arguments of the module's `__call__`, they are passed by
            name. What Flax has compiled within the module, with its calls of `seen`, is
            used again for the same purpose only.
        key: description of all but the variables: networks with equal keys compute
            the same from equal variables. It may have no hash.
    """

    variables: Variables
    run: Callable[[Variables, Any, Seen, str], Any]
    key: Any


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


def _by_name(kind: type, inputs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Returns the arguments for a batch: by name, if it is a dict of arguments."""
    names = inspect.signature(kind.__call__).parameters
    if isinstance(inputs, Mapping) and set(inputs) <= set(names):
        return [], dict(inputs)
    return [inputs], {}


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
    others = held.keys() - {"params", "batch_stats"}
    constants = {name: held[name] for name in held if name in others}

    def run(variables: Variables, inputs: Any, seen: Seen, purpose: str) -> Any:
        running: list[str] = []

        def intercept(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
            path = "/".join(context.module.path)
            # A call of the parent class by super() is part of this call.
            if context.method_name != "__call__" or not path or path in running:
                return call(*args, **kwargs)
            running.append(path)
            output = call(*args, **kwargs)
            running.remove(path)
            return seen(path, context.module, output, tuple(running))

        parameters, statistics = variables
        state = {**constants, "params": parameters, "batch_stats": statistics}
        args, named = _by_name(type(module), inputs)
        # A collection that is not there, so that `jit` of Linen traces the layers anew.
        mutable = [f"fkjax {purpose}"]
        with flax.linen.intercept_methods(intercept):
            return module.apply(state, *args, **named, **kwargs, mutable=mutable)[0]

    learned = Variables(held["params"], held.get("batch_stats", {}))
    try:
        hash(module)
        itself: Any = module
    except TypeError:  # it has a list, as `Sequential` has
        itself = _Same(module)
    return Network(learned, run, (itself, _by_identity(constants), _items(kwargs)))


def _nnx(module: nnx.Module, variables: Any, kwargs: dict[str, Any]) -> Network:
    copy: Any = nnx.merge(*nnx.split(module))
    copy.eval()
    for path, layer in list(nnx.iter_graph(copy)):
        if path and isinstance(layer, nnx.Module) and callable(layer):
            # Transformations of NNX call copies, which have the attributes, too.
            object.__setattr__(layer, _NAME, "/".join(map(str, path)))
            object.__setattr__(layer, "__class__", _watched(type(layer)))
    graph, *own, constants = nnx.split(copy, nnx.Param, nnx.BatchStat, ...)
    kind, copy = type(module), None  # so that `run` does not keep its variables
    if variables is not None:
        given = fitted_state(variables, module, source="the dict of variables")
        nnx.replace_by_pure_dict(state := nnx.merge_state(*own), given)
        own = nnx.split_state(state, nnx.Param, nnx.BatchStat)

    def run(variables: Variables, inputs: Any, seen: Seen, purpose: str) -> Any:
        module: Any = nnx.merge(graph, *map(nnx.State, variables), copied(constants))
        for _, layer in list(nnx.iter_graph(module)):
            if hasattr(layer, _NAME):
                object.__setattr__(layer, _PURPOSE, purpose)
        args, named = _by_name(kind, inputs)
        token = _seen_now.set((seen, ()))
        try:
            return module(*args, **named, **kwargs)
        finally:
            _seen_now.reset(token)

    key = graph, kind, _by_identity(constants), _items(kwargs)
    return Network(Variables(*map(nnx.to_pure_dict, own)), run, key)


class _Same:
    """An object that equals only itself, such as an array."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _by_identity(tree: Any) -> Any:
    """Returns a value that equals that of the same arrays in the same tree."""
    leaves, treedef = jax.tree.flatten(tree)
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return object()  # an array of NumPy can be changed in place
    return tuple(map(_Same, leaves)), treedef


def _items(kwargs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(kwargs.items()))


def copied(state: Any) -> Any:
    """Returns a copy of an NNX state, whose variables may be changed in a pass.

    A recurrent layer counts the numbers that it draws. Within a transformation of JAX,
    NNX allows that only for variables that were made there.
    """
    return jax.tree.map(lambda leaf: leaf, state)


_NAME, _PURPOSE = "_fkjax_name", "_fkjax_purpose"
_seen_now: contextvars.ContextVar[tuple[Seen, tuple[str, ...]]]
_seen_now = contextvars.ContextVar("callback for layers, and the layers being called")


@functools.cache
def _watched(kind: type) -> type:
    """Returns the subclass of a layer's class whose calls are intercepted."""

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        (seen, around), name = _seen_now.get(), getattr(self, _NAME)
        token = _seen_now.set((seen, (*around, name)))
        try:
            output = kind.__call__(self, *args, **kwargs)
        finally:
            _seen_now.reset(token)
        return seen(name, self, output, around)

    is_pytree = getattr(kind, "_pytree__is_pytree", True)
    return types.new_class(
        kind.__name__,
        (kind,),
        {} if is_pytree else {"pytree": False},
        lambda namespace: namespace.update(__call__=call, __module__=kind.__module__),
    )
