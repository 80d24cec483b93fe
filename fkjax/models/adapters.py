"""How a Flax module becomes the pure functions that the rest of fkjax asks for.

A module is called as `module(images, tap)`, on normalised images, and returns logits.
One with batch normalisation is called so in inference, where it must normalise by its
running statistics, and as `module(images, tap, mask)` in training, where it normalises
by the statistics of the batch and moves the running ones. The mask, of shape [N] bool,
says which examples count: a module hands it to each `BatchNorm`, in a shape that
broadcasts against the activation, `mask[:, None, None, None]` in [N, H, W, C]. One that
does not lets the rows that fill up a batch into its statistics.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx

from fkjax.base import Model, Tap, Variables, no_tap


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
    """Turns a Flax NNX module into pure functions.

    The module's `eval()` or `train()` is called before it is, so that a layer such as
    `nnx.BatchNorm` knows which statistics to use.

    Args:
        make_module: makes the module, which is called as the module docstring says.
        taps: the names at which the module calls its tap.
        head: the attribute that holds the last layer.
        image_shape: (H, W, channels).
        num_classes: C.
        mean: of each channel, subtracted from images scaled to 0..1.
        std: of each channel, then divided by.

    Returns:
        The model; its variables have the names of the module's attributes.

    Raises:
        ValueError: if the module has other variables than `nnx.Param` and
            `nnx.BatchStat`, or no parameters of the head's name.
    """
    shapes: Any = nnx.eval_shape(lambda: make_module(nnx.Rngs(0)))
    shapes.train()
    training_graph = nnx.graphdef(shapes)
    shapes.eval()
    graph, *_, rest = nnx.split(shapes, nnx.Param, nnx.BatchStat, ...)
    if others := nnx.to_flat_state(rest):
        names = ("/".join(map(str, path)) for path, _ in others)
        raise ValueError(
            "from_nnx takes modules whose only variables are parameters and batch "
            f"statistics, this one also has {', '.join(names)}: keep dropout in "
            "Model.dropout and all other state out of the module"
        )

    def variables_of(module: nnx.Module) -> Variables:
        states = nnx.state(module, nnx.Param, nnx.BatchStat)
        return Variables(*map(nnx.to_pure_dict, states))

    def init(key: jax.Array) -> Variables:
        return variables_of(make_module(nnx.Rngs(key)))

    def run(variables: Variables, images: jax.Array, tap: Tap, *mask: jax.Array):
        parameters, statistics = map(nnx.State, variables)
        module: Any = nnx.merge(
            training_graph if mask else graph, parameters, statistics
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
    """Turns a Flax Linen module into pure functions.

    Linen modules have no mode of their own: one with batch normalisation takes
    `mask=None` as its last argument, and gives its layers
    `use_running_average=mask is None`.

    Args:
        module: called as the module docstring says, by `module.apply`.
        taps: the names at which the module calls its tap.
        head: the name of the last layer.
        image_shape: (H, W, channels).
        num_classes: C.
        mean: of each channel, subtracted from images scaled to 0..1.
        std: of each channel, then divided by.

    Returns:
        The model; its variables are the collections "params" and "batch_stats".

    Raises:
        ValueError: if the module has other collections, or no parameters of the head's
            name.
    """

    def init_collections(key: jax.Array) -> Any:
        return module.init(key, jnp.zeros((1, *image_shape)), no_tap)

    shapes = jax.eval_shape(init_collections, jax.random.key(0))
    if others := set(shapes) - {"params", "batch_stats"}:
        raise ValueError(
            "from_linen takes modules whose only collections are params and "
            f"batch_stats, this one also has {', '.join(sorted(others))}: keep other "
            "state out of the module"
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
    """The model of `run(variables, images, tap, *mask) -> logits, statistics`."""
    if head not in shapes.parameters:
        raise ValueError(
            f"the head must be one of {', '.join(sorted(shapes.parameters))}, got "
            f"{head!r}: name the layer that gives the logits"
        )

    def normalised(images: jax.Array) -> jax.Array:
        images = images.astype(jnp.result_type(float)) / 255
        return (images - jnp.asarray(mean)) / jnp.asarray(std)

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        return run(variables, normalised(images), tap)[0]

    def apply_training(
        variables: Variables,
        images: jax.Array,
        tap: Tap = no_tap,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        mask = jnp.ones(len(images), bool) if mask is None else mask
        logits, statistics = run(variables, normalised(images), tap, mask)
        # In the precision they came in, whatever that of the images is.
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
