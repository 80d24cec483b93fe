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
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from fkjax.base import Model, Tap, Variables, no_tap
from fkjax.models.interception import copied


def from_nnx(
    make_module: Callable[[nnx.Rngs], nnx.Module],
    *,
    taps: Sequence[str],
    head: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Model:
    """Converts a Flax NNX module that calls a tap to a `Model`.

    The module is set to `eval()` or `train()` before each call, so that layers such as
    `nnx.BatchNorm` use the right statistics. See the documentation of
    `fkjax.models.adapters` for the arguments with which the module is called.

    Args:
        make_module: function that creates the module from its random number generators.
        taps: names with which the module calls its tap, from input to output.
        head: name of the attribute that holds the last layer.
        image_shape: shape of the images, (H, W, channels).
        num_classes: number of classes, C.
        mean: mean of each channel, subtracted from images scaled to 0..1.
        std: standard deviation of each channel, by which the difference is divided.

    Returns:
        The model, whose variables are named after the attributes of the module.

    Raises:
        ValueError: if the module has other variables than `nnx.Param`, `nnx.BatchStat`
            and the random number generators of layers without dropout, such as those
            of recurrent cells, or no parameters of the head's name.
    """
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
        image_shape=image_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
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
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
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
        image_shape: shape of the images, (H, W, channels).
        num_classes: number of classes, C.
        mean: mean of each channel, subtracted from images scaled to 0..1.
        std: standard deviation of each channel, by which the difference is divided.

    Returns:
        The model, whose variables are the collections "params" and "batch_stats".

    Raises:
        ValueError: if the module has other collections, or no parameters of the head's
            name.
    """

    def init_collections(key: jax.Array) -> Any:
        return module.init(key, jnp.zeros((1, *image_shape)), no_tap)

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
        image_shape=image_shape,
        num_classes=num_classes,
        mean=mean,
        std=std,
    )


def _model(
    init: Callable[[jax.Array], Variables],
    run: Callable[..., Any],
    shapes: Variables,
    *,
    taps: Sequence[str],
    head: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Model:
    """Returns the model of `run(variables, images, tap, *mask) -> logits, statistics`.

    Args:
        init: `init(key) -> variables`.
        run: the function that evaluates the module on normalized images.
        shapes: variables of the model, of which only names and shapes are used.
        taps: see `from_nnx`.
        head: see `from_nnx`.
        image_shape: see `from_nnx`.
        num_classes: see `from_nnx`.
        mean: see `from_nnx`.
        std: see `from_nnx`.

    Raises:
        ValueError: if there are no parameters of the head's name.
    """
    if head not in shapes.parameters:
        raise ValueError(
            f"head must be one of {', '.join(sorted(shapes.parameters))}, got "
            f"{head!r}: give the name of the layer that computes the logits"
        )

    def normalized(images: jax.Array) -> jax.Array:
        images = images.astype(jnp.result_type(float)) / 255
        axes = tuple(range(images.ndim - 1))
        of_channels = [jnp.expand_dims(jnp.asarray(x), axes) for x in (mean, std)]
        return (images - of_channels[0]) / of_channels[1]

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        return run(variables, normalized(images), tap)[0]

    def apply_training(
        variables: Variables,
        images: jax.Array,
        tap: Tap = no_tap,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        mask = jnp.ones(len(images), bool) if mask is None else mask
        logits, statistics = run(variables, normalized(images), tap, mask)
        # The statistics keep their precision, independently of that of the images.
        return logits, jax.tree.map(
            lambda new, old: new.astype(old.dtype), statistics, variables.statistics
        )

    return Model(
        init,
        apply,
        tuple(taps),
        head,
        image_shape,
        num_classes,
        apply_training=apply_training if shapes.statistics else None,
        std=tuple(float(s) for s in std),
    )
