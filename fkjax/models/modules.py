"""Conversion of any Flax module to a `Model` with taps on its layers.

The modules of `fkjax.models.adapters` call a tap. Here, the module does not have to be
written for fkjax: its layers are named by their paths, and their outputs are
intercepted by `fkjax.models.interception`.
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
    """A submodule that is called in a pass.

    Attributes:
        name: path of the submodule, such as "encoder/conv1".
        shape: shape of the output of one example; () if the output is not one array.
        kind: name of the class.
        obstacle: reason why the submodule cannot be tapped; empty if it can be.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    obstacle: str = ""


class Adapted(NamedTuple):
    """A Flax module converted to a model.

    Attributes:
        model: the classifier, which calls its tap at every layer that can be tapped.
        variables: the variables of the module.
        taps: names of the layers that describe examples, as given or as selected.
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
    """Converts a trained Flax NNX or Linen module to a model with taps on its layers.

    The module is called as `module(x)`, in inference mode: an NNX module is set to
    `eval()`, batch normalization uses its running statistics, and arguments of
    `__call__` such as `train` have the values of
    `fkjax.models.interception.INFERENCE`. The module is not modified.

    The parameters and batch statistics are the variables of the model. All other state,
    such as that of random number generators, is constant.

    If no taps are given, they are selected from the layers with weights (convolutions,
    dense and recurrent layers): the last layer of each spatial size, and of these the last three.
    The last layer of the module, which computes the logits, and layers that cannot be
    tapped are excluded.

    >>> from flax import nnx
    >>> rngs = nnx.Rngs(0)
    >>> layers = nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs)
    >>> adapted = from_module(nnx.Sequential(*layers), example=jnp.zeros((1, 4)))
    >>> adapted.taps, adapted.model.image_shape, adapted.model.num_classes
    (('layers/0',), (1, 1, 4), 3)

    Args:
        module: the module.
        variables: for a Linen module, the dict of variables that `apply` takes, or only
            the parameters. For an NNX module, None for the variables that it holds, or
            a state, or the result of `fkjax.models.restore_variables`.
        example: one batch of one or more examples as stored in the pool, or an object
            with its shape and dtype. Shape [n, ...].
        taps: names of the layers that describe examples, see `layers`. None selects
            them.
        num_classes: expected number of classes, C. None accepts any number.
        preprocess: function from a batch as stored in the pool to the input of the
            module. If None, the module gets the batch unchanged, except that integers
            are converted to floats if `example` has floats. Values are not scaled.
        apply_kwargs: further arguments of `__call__`, which override those of
            inference mode.

    Returns:
        The model, its variables and the taps. The images of the model are the examples
        in the shape of `as_images`. The model cannot be initialized or trained, and has
        no dropout.

    Raises:
        UserError: if the module cannot be called, does not return logits of shape
            [N, C], or has no such layers.
    """
    network = network_of(module, variables, apply_kwargs or {})
    example_shape, inputs_of = _inputs(example, preprocess)
    trace = _trace(network, example_shape, example.dtype, inputs_of)
    if num_classes not in (None, trace.num_classes):
        raise UserError(
            f"the module returns logits of {trace.num_classes} classes, not of "
            f"{num_classes}: give a module for these classes, or leave num_classes out"
        )
    names = tuple(layer.name for layer in trace.layers if not layer.obstacle)
    chosen = _found_taps(trace) if taps is None else _checked(taps, trace)

    def init(key: jax.Array) -> Variables:
        raise UserError(
            "a model of from_module cannot be initialized: use the variables that "
            "from_module returned"
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
    """Lists the submodules that a pass calls, in the order in which they return.

    Only shapes are computed. See `from_module` for the arguments.

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
    """Reshapes examples of any shape to the four axes of images.

    [N, d] becomes [N, 1, 1, d], and [N, H, W] becomes [N, H, W, 1]. Arrays of four axes
    do not change. If there are more axes, all but the first are flattened.

    >>> as_images(np.zeros((5, 7))).shape
    (5, 1, 1, 7)

    Args:
        examples: the examples. Shape [N, ...].

    Returns:
        The examples. Shape [N, H, W, channels].
    """
    shape = examples.shape[1:]
    if len(shape) == 3:
        return examples
    carried = (*shape, 1) if len(shape) == 2 else (1, 1, math.prod(shape))
    return examples.reshape(len(examples), *carried)


def _inputs(
    example: Any, preprocess: Callable[[jax.Array], jax.Array] | None
) -> tuple[tuple[int, ...], Callable[[jax.Array], jax.Array]]:
    """Returns the shape of an example, and a function from images to module inputs."""
    if len(getattr(example, "shape", ())) < 2 or not hasattr(example, "dtype"):
        raise UserError(
            "example must be a batch of examples, such as jnp.zeros((1, 28, 28, 1)), "
            "got "
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
    """The layers and the number of classes of a module, found by tracing one pass.

    Attributes:
        layers: the layers, in the order in which they return.
        weighted: names of the layers with weights.
        num_classes: number of classes, C.
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
    except Exception as error:  # a module of the user may raise any exception
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            "the module cannot be called in inference on a batch of shape "
            f"{batch.shape} of {batch.dtype} ({type(error).__name__}: {first}): check "
            "the example, the variables, preprocess and apply_kwargs"
        ) from error
    shape = getattr(logits, "shape", ())
    if len(shape) != 2 or shape[0] != num:
        raise UserError(
            f"the module must return logits of shape [N, C], got shape {shape} for a "
            f"batch of {num} examples"
            if shape
            else "the module must return one array of logits, of shape [N, C], got "
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
        obstacle = "does not return one array of floats of shape [N, ..., n]"
    size = output.shape[1:] if is_tappable else ()
    return Layer(name, size, type(layer).__name__, obstacle)


_WITH_WEIGHTS = (
    flax.linen.Conv,
    flax.linen.ConvTranspose,
    flax.linen.ConvLocal,
    flax.linen.Dense,
    flax.linen.DenseGeneral,
    flax.linen.Einsum,
    flax.linen.RNN,
    flax.linen.Bidirectional,
    nnx.Conv,
    nnx.ConvTranspose,
    nnx.Linear,
    nnx.LinearGeneral,
    nnx.Einsum,
    nnx.RNN,
    nnx.Bidirectional,
)
_MOST_TAPS = 3


def _found_taps(trace: _Trace) -> tuple[str, ...]:
    by_name = {layer.name: layer for layer in trace.layers}
    last = {}
    for name in trace.weighted[:-1]:
        layer = by_name[name]
        # A correlation needs at least two values.
        if not layer.obstacle and layer.shape[-1] > 1:
            last.pop(layer.shape[:-1], None)  # so that the key moves to the end
            last[layer.shape[:-1]] = name
    if not last:
        raise UserError(
            "the module has no layer with weights before the one that computes the "
            f"logits: choose taps from {_listed(trace)}"
        )
    return tuple(last.values())[-_MOST_TAPS:]


def _checked(taps: Sequence[str], trace: _Trace) -> tuple[str, ...]:
    by_name = {layer.name: layer for layer in trace.layers}
    if isinstance(taps, str) or not taps or len(set(taps)) != len(taps):
        raise UserError(
            f"taps must be one or more different names of layers, got {taps!r}"
        )
    for name in taps:
        if name not in by_name:
            raise UserError(
                f"the module calls no layer {name!r}: choose taps from {_listed(trace)}"
            )
        if obstacle := by_name[name].obstacle:
            raise UserError(
                f"the layer {name!r} cannot be tapped because it {obstacle}: choose "
                f"taps from {_listed(trace)}"
            )
    return tuple(taps)


def _listed(trace: _Trace) -> str:
    names = (f"{x.name} {x.shape}" for x in trace.layers if not x.obstacle)
    return ", ".join(names) or "none, as no layer of this module can be tapped"


def _head(trace: _Trace) -> str:
    """Returns the last layer with weights; empty if it is part of a submodule."""
    last = trace.weighted[-1] if trace.weighted else ""
    return "" if "/" in last else last
