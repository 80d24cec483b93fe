"""How a Flax module becomes the pure functions that the rest of fkjax asks for."""

from collections.abc import Callable, Sequence
from typing import Any

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

    Args:
        make_module: makes the module; called as `module(images, tap)` on normalised
            images, it returns logits.
        taps: the names at which the module calls its tap.
        head: the attribute that holds the last layer.
        image_shape: (H, W, channels).
        num_classes: C.
        mean: of each channel, subtracted from images scaled to 0..1.
        std: of each channel, then divided by.

    Returns:
        The model.
    """
    graph, _, rest = nnx.split(
        nnx.eval_shape(lambda: make_module(nnx.Rngs(0))), nnx.Param, ...
    )
    if jax.tree.leaves(rest):
        raise ValueError(
            "from_nnx takes modules whose only variables are parameters; "
            f"this one also has {rest}"
        )

    def init(key: jax.Array) -> Variables:
        return nnx.to_pure_dict(nnx.state(make_module(nnx.Rngs(key)), nnx.Param))

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        module: Any = nnx.merge(graph, nnx.State(variables))
        images = images.astype(jnp.float32) / 255
        return module((images - jnp.asarray(mean)) / jnp.asarray(std), tap)

    return Model(init, apply, tuple(taps), head, image_shape, num_classes)
