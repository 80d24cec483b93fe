"""Images as a set that is read by position, wherever they are kept."""

from collections.abc import Callable
from typing import Any

import jax


def take(images: jax.Array, indices: jax.Array) -> jax.Array:
    """The images at some positions.

    Args:
        images: Shape [N, H, W, channels].
        indices: Shape [B].

    Returns:
        Shape [B, H, W, channels].
    """
    return images[indices]


def map_examples(
    fn: Callable[..., Any], images: jax.Array, *others: Any, batch_size: int
) -> Any:
    """`fn(image, *others)` of each example, some at a time: `vmap` in bounded memory.

    Args:
        fn: of one example.
        images: Shape [N, H, W, channels].
        *others: pytrees of arrays with the same leading axis.
        batch_size: how many at a time; it changes the speed, not the result.

    Returns:
        What `fn` returns, with a leading axis N.
    """
    return jax.lax.map(
        lambda example: fn(*example), (images, *others), batch_size=batch_size
    )


def map_apart(fn: Callable[[Any], Any], xs: Any, *, batch_size: int) -> Any:
    """`vmap` whose result is finished before anyone reads it.

    XLA on CPU fuses what is computed into what reads it, and computes it anew for each
    value of a convolution or of a product that does; no barrier stops it from that. A
    loop does, if it has two steps or more.

    Args:
        fn: of one example.
        xs: a pytree of arrays with the same leading axis.
        batch_size: the most at a time.

    Returns:
        What `fn` returns, with that leading axis.
    """
    half = len(jax.tree.leaves(xs)[0]) // 2
    return jax.lax.map(fn, xs, batch_size=max(1, min(batch_size, half)))
