"""Conversion of trained Flax modules to a `Model` with taps on their layers.

The modules of `fkjax.models.adapters` call a tap. Here, the module does not have to be
written for fkjax: its layers are named by their paths, and their outputs are
intercepted by `fkjax.models.interception`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from fkjax.base import Model, Tap, UserError, Variables, no_tap
from fkjax.models import marks
from fkjax.models.inputs import Inputs, inputs_like
from fkjax.models.interception import Network, network_of
from fkjax.models.saved import require_no_nan
from fkjax.models.tracing import (
    Layer,
    Trace,
    checked_taps,
    found_taps,
    head_of,
    outputs_of,
    traced,
)


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

    The module is called as `module(x)`, or with several arrays by name, in inference
    mode: an NNX module is set to `eval()`, batch normalization uses its running
    statistics, and arguments of `__call__` such as `train` have the values of
    `fkjax.models.interception.INFERENCE`. The module is not modified.

    The parameters and batch statistics are the variables of the model. All other state,
    such as that of random number generators, is constant.

    Layers are also tapped within `remat`, within a `scan` over layers and if they are
    called more than once; then, "blocks/fc[3]" is the fourth call of "blocks/fc".
    Within `vmap`, `cond` and loops with the same weights, they cannot be tapped, but
    the module around them can.

    If no taps are given, they are selected from the layers with weights (convolutions,
    dense and recurrent layers, embeddings): the last layer of each spatial size, and of
    these the last three. In place of a layer that cannot be tapped, the smallest module
    around it is taken. The last layer of the module, which computes the logits, and the
    queries and keys of attention are excluded, and so are layers that are called more
    than once if there are others. Several axes of features, such as heads, are
    flattened.

    >>> import jax.numpy as jnp
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
        example: one batch of one or more examples as stored in the pool: an array, or a
            pytree of arrays such as {"tokens": ..., "mask": ...}, or objects with their
            shapes and dtypes. Shape [n, ...] each. If the keys of a dict are arguments
            of the module's `__call__`, they are passed by name.
        taps: names of the layers that describe examples, see `layers`. None selects
            them.
        num_classes: expected number of classes, C. None accepts any number.
        preprocess: function from a batch as stored in the pool to the input of the
            module. If None, the module gets the batch unchanged: integers stay
            integers, and are converted to floats only if `example` has floats. Values
            are not scaled.
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
    require_no_nan(network.variables)
    recipe = _Recipe(network, inputs_like(example), preprocess)
    trace = _trace_of(recipe)
    if num_classes not in (None, trace.num_classes):
        raise UserError(
            f"the module returns logits of {trace.num_classes} classes, not of "
            f"{num_classes}: give a module for these classes, or leave num_classes out"
        )
    chosen = found_taps(trace) if taps is None else checked_taps(taps, trace)
    return Adapted(_model(recipe, chosen), network.variables, chosen)


class _Recipe:
    """What determines the model of a module, except for the values of its variables.

    Those of equal recipes are one model, whose compiled programs are used again.
    """

    def __init__(
        self,
        network: Network,
        inputs: Inputs,
        preprocess: Callable[[Any], Any] | None,
    ):
        shapes = jax.eval_shape(lambda: network.variables)
        self.network = network._replace(variables=shapes)
        self.inputs = inputs
        self.inputs_of = _inputs_of(inputs, preprocess)
        leaves, treedef = jax.tree.flatten(shapes)
        key = network.key, tuple(leaves), treedef, inputs, preprocess
        try:
            self._hash, self._key = hash(key), key
        except TypeError:
            self._hash, self._key = id(self), object()

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Recipe) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash


@functools.lru_cache(maxsize=8)
def _trace_of(recipe: _Recipe) -> Trace:
    return traced(recipe.network, recipe.inputs, recipe.inputs_of)


@functools.lru_cache(maxsize=8)
def _model(recipe: _Recipe, chosen: tuple[str, ...]) -> Model:
    trace, inputs, inputs_of = _trace_of(recipe), recipe.inputs, recipe.inputs_of

    def init(key: jax.Array) -> Variables:
        raise UserError(
            "a model of from_module cannot be initialized: use the variables that "
            "from_module returned"
        )

    run = _tapped(recipe.network, trace, chosen)

    def apply(variables: Variables, images: Any, tap: Tap = no_tap) -> jax.Array:
        return run(variables, inputs_of(images), tap)

    names = tuple(
        name
        for name, place in trace.places.items()
        if not place.is_inside or name in chosen
    )
    return Model(
        init, apply, names, head_of(trace), inputs.image_shape, trace.num_classes
    )


def _inputs_of(
    inputs: Inputs, preprocess: Callable[[Any], Any] | None
) -> Callable[[Any], Any]:
    """Returns a function from images, or examples, to the inputs of the module."""
    if preprocess is None:
        return inputs.batch
    return lambda images: preprocess(inputs.in_shape(images))


OnCall = Callable[[str, int, jax.Array], jax.Array]
"""`visit(path, number, output) -> output`, called with a layer's path and the number of
its call."""


def _tapped(
    network: Network, trace: Trace, chosen: Sequence[str]
) -> Callable[[Variables, Any, Tap], Any]:
    """Returns a function that runs a network, and calls a tap at its layers.

    Layers within a transformation are only tapped if they are chosen, because the
    transformation is then opened.

    The logits of an example are NaN if a layer before a pooling returns NaN, which
    compiled max pooling hides on CPU.
    """
    names = {place[:2]: name for name, place in trace.places.items()}
    inside = {trace.places[tap].path for tap in chosen if trace.places[tap].is_inside}
    outside = {place.path for place in trace.places.values() if not place.is_inside}
    wanted = {
        (path, number)
        for (path, number), name in names.items()
        if path in outside or name in chosen
    }

    def directly(variables: Variables, inputs: Any, visit: OnCall) -> Any:
        times = dict.fromkeys(outside, 0)

        def seen(path: str, output: jax.Array) -> jax.Array:
            if path not in outside:
                return output
            times[path] += 1
            return visit(path, times[path] - 1, output)

        return network.run(variables, inputs, outputs_of(seen), "taps")

    def opened(variables: Variables, inputs: Any, visit: OnCall) -> Any:
        closed = jax.make_jaxpr(
            lambda variables, inputs: network.run(
                variables, inputs, outputs_of(marks.mark), "marks"
            )
        )(variables, inputs)
        (output,) = marks.evaluate(
            closed, jax.tree.leaves((variables, inputs)), wanted, visit
        )
        return output

    def run(variables: Variables, inputs: Any, tap: Tap) -> Any:
        is_nan = []

        def visit(path: str, number: int, output: jax.Array) -> jax.Array:
            if path in trace.before_pooling:
                is_nan.append(jnp.isnan(output).any(axis=tuple(range(1, output.ndim))))
            return tap(names[path, number], output)

        is_opened = inside and tap is not no_tap
        logits = (opened if is_opened else directly)(variables, inputs, visit)
        if not is_nan:
            return logits
        bad = jnp.stack(is_nan).any(axis=0)[:, None]
        return logits + jnp.where(bad, jnp.nan, 0).astype(logits.dtype)

    return run


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

    >>> import jax.numpy as jnp
    >>> module = flax.linen.Sequential([flax.linen.Dense(8), flax.linen.Dense(3)])
    >>> example = jnp.zeros((1, 4))
    >>> variables = module.init(jax.random.key(0), example)
    >>> for layer in layers(module, variables, example=example):
    ...     print(layer.name, layer.shape, layer.kind)
    layers_0 (8,) Dense
    layers_1 (3,) Dense
    """
    network = network_of(module, variables, apply_kwargs or {})
    inputs = inputs_like(example)
    return traced(network, inputs, _inputs_of(inputs, preprocess)).layers
