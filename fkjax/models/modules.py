"""A plain Flax module, as its author wrote it, as a `Model` with taps on its layers.

The modules of `fkjax.models.adapters` call a tap themselves. Here a module need not
know of fkjax: its layers are named by their paths, and `fkjax.models.interception` sees
and replaces what they give.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core.tracers import current_trace

from fkjax.base import Model, Tap, UserError, Variables, no_tap
from fkjax.models.interception import Network, network_of


class Layer(NamedTuple):
    """A submodule that a pass calls.

    Attributes:
        name: its path, such as "encoder/conv1".
        shape: of one example's output; () if it gives no single array.
        kind: the name of its class.
        obstacle: why it cannot be tapped; empty if it can.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    obstacle: str = ""


class Adapted(NamedTuple):
    """A module of one's own, for the rest of fkjax.

    Attributes:
        model: the classifier, which calls its tap at every layer that can be tapped.
        variables: the module's own.
        taps: those to describe examples by: the ones asked for, or found.
    """

    model: Model
    variables: Variables
    taps: tuple[str, ...]


def from_module(
    module: nnx.Module | flax.linen.Module,
    variables: Any = None,
    *,
    example: Any,
    taps: Sequence[str] | None = None,
    num_classes: int | None = None,
    preprocess: Callable[[jax.Array], jax.Array] | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
) -> Adapted:
    """Turns a trained Flax NNX or Linen module into pure functions with taps.

    It is called as `module(x)`, in inference: those arguments of its `__call__` are set
    so that `fkjax.models.interception.INFERENCE` names, such as `train`, an NNX module
    is in `eval()` mode, and batch normalisation uses its running statistics. The module
    that is given does not change.

    Parameters and batch statistics are the model's variables; all other state, such as
    that of random number generators, is constant.

    Layers to tap, if none are named, are those with weights (convolutions and dense
    layers): the last of each spatial size, of these the last three. The very last of
    the network makes the logits and is left out, and so is one that cannot be tapped.

    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> layers = nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs)
    >>> adapted = from_module(nnx.Sequential(*layers), example=jnp.zeros((1, 4)))
    >>> adapted.taps, adapted.model.image_shape, adapted.model.num_classes
    (('layers/0',), (1, 1, 4), 3)

    Args:
        module: the module.
        variables: of a Linen module the dict that `apply` takes, or the parameters
            alone; of an NNX module None, or others than it holds, as a state or what
            `fkjax.models.restore_variables` gives.
        example: one batch as the pool holds it, of one example or more, or its shape
            and dtype. Shape [n, ...].
        taps: names of `layers` to describe examples by; None finds them.
        num_classes: C, to be checked; None takes the module's.
        preprocess: makes of a batch as the pool holds it what the module takes. If it
            is None, the module is given the batch as it is, but integers as floats
            where `example` has floats. Nothing is scaled.
        apply_kwargs: further arguments of `__call__`, or others than these.

    Returns:
        The model, its variables and the taps. The model's images are the examples as
        `as_images` lays them out. It comes with its variables, so that it has no
        `init`, is not trained and knows no dropout.

    Raises:
        UserError: if the module cannot be called so, gives no logits of shape [N, C],
            or has no such layers.
    """
    network = network_of(module, variables, apply_kwargs or {})
    example_shape, inputs_of = _inputs(example, preprocess)
    trace = _trace(network, example_shape, example.dtype, inputs_of)
    if num_classes not in (None, trace.num_classes):
        raise UserError(
            f"the module gives logits of {trace.num_classes} classes, not of "
            f"{num_classes}: give one for these classes, or leave num_classes out"
        )
    names = tuple(layer.name for layer in trace.layers if not layer.obstacle)
    chosen = _found_taps(trace) if taps is None else _checked(taps, trace)

    def init(key: jax.Array) -> Variables:
        raise UserError(
            "this model comes with its variables and cannot be initialised: use "
            "those that from_module gave"
        )

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        def seen(name: str, layer: Any, output: Any) -> Any:
            del layer
            return tap(name, output) if name in names else output

        return network.run(variables, inputs_of(images), seen)

    image_shape = as_images(np.zeros((0, *example_shape), bool)).shape[1:]
    model = Model(init, apply, names, _head(trace), image_shape, trace.num_classes)
    return Adapted(model, network.variables, chosen)


def layers(
    module: nnx.Module | flax.linen.Module,
    variables: Any = None,
    *,
    example: Any,
    preprocess: Callable[[jax.Array], jax.Array] | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
) -> list[Layer]:
    """The submodules that a pass calls, in the order in which they finish.

    Nothing is computed: shapes alone. The arguments are those of `from_module`.

    >>> module = flax.linen.Sequential([flax.linen.Dense(8), flax.linen.Dense(3)])
    >>> example = jnp.zeros((1, 4))
    >>> variables = module.init(jax.random.key(0), example)
    >>> for layer in layers(module, variables, example=example):
    ...     print(layer.name, layer.shape, layer.kind)
    layers_0 (8,) Dense
    layers_1 (3,) Dense
    """
    network = network_of(module, variables, apply_kwargs or {})
    example_shape, inputs_of = _inputs(example, preprocess)
    return _trace(network, example_shape, example.dtype, inputs_of).layers


def as_images(examples: Any) -> Any:
    """Examples of any shape as fkjax carries them, with the four axes of images.

    Vectors [N, d] become [N, 1, 1, d], and [N, H, W] becomes [N, H, W, 1]. Images stay
    as they are, and of more axes all but the first are laid out in one.

    >>> as_images(np.zeros((5, 7))).shape
    (5, 1, 1, 7)

    Args:
        examples: Shape [N, ...].

    Returns:
        Shape [N, H, W, channels].
    """
    shape = examples.shape[1:]
    if len(shape) == 3:
        return examples
    carried = (*shape, 1) if len(shape) == 2 else (1, 1, math.prod(shape))
    return examples.reshape(len(examples), *carried)


def _inputs(
    example: Any, preprocess: Callable[[jax.Array], jax.Array] | None
) -> tuple[tuple[int, ...], Callable[[jax.Array], jax.Array]]:
    """The shape of one example, and what makes the module's inputs of images."""
    if len(getattr(example, "shape", ())) < 2 or not hasattr(example, "dtype"):
        raise UserError(
            "the example must be a batch as the module takes it, such as "
            "jnp.zeros((1, 28, 28, 1)), got "
            f"{getattr(example, 'shape', type(example).__name__)}"
        )
    shape, dtype = tuple(example.shape[1:]), example.dtype

    def as_given(batch: jax.Array) -> jax.Array:
        if jnp.issubdtype(dtype, jnp.floating) == jnp.issubdtype(
            batch.dtype, jnp.floating
        ):
            return batch
        return batch.astype(dtype)

    def inputs_of(images: jax.Array) -> jax.Array:
        batch = jnp.asarray(images).reshape(len(images), *shape)
        return (preprocess or as_given)(batch)

    return shape, inputs_of


class _Trace(NamedTuple):
    """What one pass shows.

    Attributes:
        layers: in the order in which they finish.
        weighted: the names of those with weights.
        num_classes: C.
    """

    layers: list[Layer]
    weighted: list[str]
    num_classes: int


def _trace(
    network: Network,
    shape: tuple[int, ...],
    dtype: Any,
    inputs_of: Callable[[jax.Array], jax.Array],
) -> _Trace:
    num, calls, weighted = 2, [], []

    def run(variables: Variables, batch: jax.Array) -> Any:
        outside = current_trace()

        def seen(name: str, layer: Any, output: Any) -> Any:
            if isinstance(layer, _WITH_WEIGHTS):
                weighted.append(name)
            inside = current_trace() != outside
            calls.append(_called(name, layer, output, num, inside))
            return output

        return network.run(variables, inputs_of(batch), seen)

    batch = jax.ShapeDtypeStruct((num, *shape), dtype)
    try:
        logits = jax.eval_shape(run, network.variables, batch)
    except Exception as error:  # whatever a module of the user's own raises
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            "the module cannot be called in inference on a batch of shape "
            f"{batch.shape} of {batch.dtype} ({type(error).__name__}: {first}): check "
            "the example, the variables, preprocess and apply_kwargs"
        ) from error
    shape = getattr(logits, "shape", ())
    if len(shape) != 2 or shape[0] != num:
        raise UserError(
            f"the module must give logits of shape [N, C], got {shape} for a batch of "
            f"{num} examples"
            if shape
            else "the module must give one array of logits, of shape [N, C], got a "
            f"{type(logits).__name__}"
        )
    times = collections.Counter(layer.name for layer in calls)
    once = {layer.name: layer for layer in calls}
    for name in times:
        if times[name] > 1:
            obstacle = "is called more than once in a pass"
            once[name] = once[name]._replace(obstacle=obstacle)
    return _Trace(list(once.values()), list(dict.fromkeys(weighted)), shape[1])


def _called(name: str, layer: Any, output: Any, num: int, inside: bool) -> Layer:
    is_tappable = (
        isinstance(output, jax.Array)
        and output.ndim >= 2
        and len(output) == num
        and jnp.issubdtype(output.dtype, jnp.floating)
    )
    obstacle = ""
    if inside:
        obstacle = "is called within a transformation, such as remat or scan"
    elif not is_tappable:
        obstacle = "gives no single array of floats of shape [N, ..., n]"
    size = output.shape[1:] if is_tappable else ()
    return Layer(name, size, type(layer).__name__, obstacle)


_WITH_WEIGHTS = (
    flax.linen.Conv,
    flax.linen.ConvTranspose,
    flax.linen.ConvLocal,
    flax.linen.Dense,
    flax.linen.DenseGeneral,
    flax.linen.Einsum,
    nnx.Conv,
    nnx.ConvTranspose,
    nnx.Linear,
    nnx.LinearGeneral,
    nnx.Einsum,
)
_MOST_TAPS = 3


def _found_taps(trace: _Trace) -> tuple[str, ...]:
    by_name = {layer.name: layer for layer in trace.layers}
    last = {}
    for name in trace.weighted[:-1]:
        layer = by_name[name]
        # A correlation needs two values or more.
        if not layer.obstacle and layer.shape[-1] > 1:
            last.pop(layer.shape[:-1], None)  # so that the order is that of the last
            last[layer.shape[:-1]] = name
    if not last:
        raise UserError(
            "the module has no layer with weights before the one that makes its "
            f"logits: name the taps out of {_listed(trace)}"
        )
    return tuple(last.values())[-_MOST_TAPS:]


def _checked(taps: Sequence[str], trace: _Trace) -> tuple[str, ...]:
    by_name = {layer.name: layer for layer in trace.layers}
    if isinstance(taps, str) or not taps or len(set(taps)) != len(taps):
        raise UserError(
            f"taps must be names of layers, each once and at least one, got {taps!r}"
        )
    for name in taps:
        if name not in by_name:
            raise UserError(
                f"the module calls no layer {name!r}: name taps out of {_listed(trace)}"
            )
        if obstacle := by_name[name].obstacle:
            raise UserError(
                f"the layer {name!r} cannot be tapped, for it {obstacle}: name taps "
                f"out of {_listed(trace)}"
            )
    return tuple(taps)


def _listed(trace: _Trace) -> str:
    names = (f"{x.name} {x.shape}" for x in trace.layers if not x.obstacle)
    return ", ".join(names) or "none, for no layer of this module can be tapped"


def _head(trace: _Trace) -> str:
    """The last layer with weights, if it is no part of a larger one; else empty."""
    last = trace.weighted[-1] if trace.weighted else ""
    return "" if "/" in last else last
