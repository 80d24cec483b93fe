"""Conversion of Flax modules that call a tap to `Model`.

A module is called as `module(images, tap)` on normalized images and returns logits. In
training, a module with batch normalization is called as `module(images, tap, mask)`: it
then normalizes by the statistics of the batch and updates the running statistics, which
it uses in inference. The mask, of shape [N] bool, marks the examples that count. The
module must pass it to each `BatchNorm`, in a shape that broadcasts against the
activation, such as `mask[:, None, None, None]` for [N, H, W, C]; otherwise the padding
of a batch enters the statistics.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from fkjax.base import Model, Tap, Variables, no_tap
from fkjax.models.inputs import inputs_like
from fkjax.models.interception import copied


def from_nnx(
    make_module: Callable[[nnx.Rngs], nnx.Module],
    *,
    taps: Sequence[str],
    head: str,
    num_classes: int,
    image_shape: tuple[int, int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    example: Any = None,
) -> Model:
    """Converts a Flax NNX module that calls a tap to a `Model`.

    The module is set to `eval()` or `train()` before each call, so that layers such as
    `nnx.BatchNorm` use the right statistics. See the documentation of
    `fkjax.models.adapters` for the arguments with which the module is called.

    Args:
        make_module: function that creates the module from its random number generators.
        taps: names with which the module calls its tap, from input to output.
        head: name of the attribute that holds the last layer.
        num_classes: number of classes, C.
        image_shape: shape of the images, (H, W, channels).
        mean: mean of each channel, subtracted from images scaled to 0..1.
        std: standard deviation of each channel, by which the difference is divided.
        example: one batch of examples, in place of the last three, if they are not
            images, such as tokens or a dict of arrays: see `from_module`. The module
            gets them unchanged, and the model takes them as `as_images` returns them.

    Returns:
        The model, whose variables are named after the attributes of the module.

    Raises:
        ValueError: if the module has other variables than `nnx.Param`, `nnx.BatchStat`
            and the random number generators of layers without dropout, such as those
            of recurrent cells, or no parameters of the head's name, or neither or both
            of the images and an example are given.
    """
    images = _images(image_shape, mean, std, example)
    shapes: Any = nnx.eval_shape(lambda: make_module(nnx.Rngs(0)))
    shapes.train()
    training_graph = nnx.graphdef(shapes)
    shapes.eval()
    graph, *_, generators, rest = nnx.split(
        shapes, nnx.Param, nnx.BatchStat, nnx.RngState, ...
    )
    others = [path for path, _ in nnx.to_flat_state(rest)]
    others += [
        path for path, _ in nnx.to_flat_state(generators) if _drops(shapes, path)
    ]
    if others:
        names = ("/".join(map(str, path)) for path in others)
        raise ValueError(
            "from_nnx takes modules with no variables but parameters and batch "
            f"statistics, this one also has {', '.join(names)}: define dropout in "
            "Model.dropout and keep other state out of the module"
        )

    if generators:  # without dropout, they are constants
        generators = jax.jit(
            lambda: nnx.state(make_module(nnx.Rngs(0)), nnx.RngState)
        )()

    def variables_of(module: nnx.Module) -> Variables:
        states = nnx.state(module, nnx.Param, nnx.BatchStat)
        return Variables(*map(nnx.to_pure_dict, states))

    def init(key: jax.Array) -> Variables:
        return variables_of(make_module(nnx.Rngs(key)))

    def run(variables: Variables, images: jax.Array, tap: Tap, *mask: jax.Array):
        parameters, statistics = map(nnx.State, variables)
        module: Any = nnx.merge(
            training_graph if mask else graph,
            parameters,
            statistics,
            copied(generators),
        )
        logits = module(images, tap, *mask)
        return logits, variables_of(module).statistics

    return _model(
        init,
        run,
        variables_of(shapes),
        taps=taps,
        head=head,
        num_classes=num_classes,
        images=images,
    )


def _drops(module: nnx.Module, path: tuple[Any, ...]) -> bool:
    """Returns whether a random number generator is that of a layer with dropout."""
    layer: Any = module
    for name in path:
        layer = layer[name] if isinstance(name, int) else getattr(layer, name, None)
        rates = (getattr(layer, kind, 0) for kind in ("rate", "dropout_rate"))
        if any(isinstance(rate, float | int) and rate > 0 for rate in rates):
            return True
    return False


def from_linen(
    module: flax.linen.Module,
    *,
    taps: Sequence[str],
    head: str,
    num_classes: int,
    image_shape: tuple[int, int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    example: Any = None,
) -> Model:
    """Converts a Flax Linen module that calls a tap to a `Model`.

    A Linen module has no training mode. With batch normalization, it takes `mask=None`
    as its last argument and passes `use_running_average=mask is None` to its layers.
    See the documentation of `fkjax.models.adapters` for the arguments with which the
    module is called.

    Args:
        module: the module, called by `module.apply`.
        taps: names with which the module calls its tap, from input to output.
        head: name of the last layer.
        num_classes: number of classes, C.
        image_shape: shape of the images, (H, W, channels).
        mean: mean of each channel, subtracted from images scaled to 0..1.
        std: standard deviation of each channel, by which the difference is divided.
        example: one batch of examples, in place of the last three, if they are not
            images, such as tokens or a dict of arrays: see `from_module`. The module
            gets them unchanged, and the model takes them as `as_images` returns them.

    Returns:
        The model, whose variables are the collections "params" and "batch_stats".

    Raises:
        ValueError: if the module has other collections, or no parameters of the head's
            name.
    """
    images = _images(image_shape, mean, std, example)

    def init_collections(key: jax.Array) -> Any:
        return module.init(key, images.zeros, no_tap)

    shapes = jax.eval_shape(init_collections, jax.random.key(0))
    if others := set(shapes) - {"params", "batch_stats"}:
        raise ValueError(
            "from_linen takes modules with no collections but params and batch_stats, "
            f"this one also has {', '.join(sorted(others))}: keep other state out of "
            "the module"
        )

    def variables_of(collections: Any) -> Variables:
        return Variables(collections["params"], collections.get("batch_stats", {}))

    def init(key: jax.Array) -> Variables:
        return variables_of(init_collections(key))

    def run(variables: Variables, images: jax.Array, tap: Tap, *mask: jax.Array):
        parameters, statistics = variables
        collections = {"params": parameters, "batch_stats": statistics}
        if not mask:
            return module.apply(collections, images, tap), statistics
        logits, changed = module.apply(
            collections, images, tap, *mask, mutable=["batch_stats"]
        )
        return logits, changed["batch_stats"]

    return _model(
        init,
        run,
        variables_of(shapes),
        taps=taps,
        head=head,
        num_classes=num_classes,
        images=images,
    )


class _Images(NamedTuple):
    """The examples that a model takes, and those that its module takes.

    Attributes:
        shape: shape of an example of the model, (H, W, channels).
        prepared: function from the examples of the model to those of the module.
        zeros: one example of the module, of zeros.
        std: standard deviation of each channel.
    """

    shape: tuple[int, int, int]
    prepared: Callable[[jax.Array], Any]
    zeros: Any
    std: tuple[float, ...]


def _images(
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    example: Any,
) -> _Images:
    """Returns what the arguments of `from_nnx` say about the examples."""
    if example is not None:
        if (shape, mean, std) != (None, None, None):
            raise ValueError("example takes the place of image_shape, mean and std")
        inputs = inputs_like(example)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs.structs(1))
        return _Images(inputs.image_shape, inputs.batch, zeros, (1.0,))
    if shape is None or mean is None or std is None:
        raise ValueError(
            "image_shape, mean and std are needed, or an example of what is no image"
        )

    def normalized(images: jax.Array) -> jax.Array:
        images = images.astype(jnp.result_type(float)) / 255
        axes = tuple(range(images.ndim - 1))
        of_channels = [jnp.expand_dims(jnp.asarray(x), axes) for x in (mean, std)]
        return (images - of_channels[0]) / of_channels[1]

    zeros = jnp.zeros((1, *shape))
    return _Images(shape, normalized, zeros, tuple(float(s) for s in std))


def _model(
    init: Callable[[jax.Array], Variables],
    run: Callable[..., Any],
    shapes: Variables,
    *,
    taps: Sequence[str],
    head: str,
    num_classes: int,
    images: _Images,
) -> Model:
    """Returns the model of `run(variables, images, tap, *mask) -> logits, statistics`.

    Args:
        init: `init(key) -> variables`.
        run: the function that evaluates the module on its examples.
        shapes: variables of the model, of which only names and shapes are used.
        taps: see `from_nnx`.
        head: see `from_nnx`.
        num_classes: see `from_nnx`.
        images: the examples of the model.

    Raises:
        ValueError: if there are no parameters of the head's name.
    """
    if head not in shapes.parameters:
        raise ValueError(
            f"head must be one of {', '.join(sorted(shapes.parameters))}, got "
            f"{head!r}: give the name of the layer that computes the logits"
        )
    prepared = images.prepared

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        return run(variables, prepared(images), tap)[0]

    def apply_training(
        variables: Variables,
        images: jax.Array,
        tap: Tap = no_tap,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        mask = jnp.ones(len(images), bool) if mask is None else mask
        logits, statistics = run(variables, prepared(images), tap, mask)
        # The statistics keep their precision, independently of that of the images.
        return logits, jax.tree.map(
            lambda new, old: new.astype(old.dtype), statistics, variables.statistics
        )

    return Model(
        init,
        apply,
        tuple(taps),
        head,
        images.shape,
        num_classes,
        apply_training=apply_training if shapes.statistics else None,
        std=images.std,
    )
