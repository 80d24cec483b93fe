"""Images as a set that is read by position, wherever they are kept."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Images, UserError

Fetch = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`fetch(ids [B], then [B']) -> images`: uint8 of shape [B, H, W, channels]. `then` are
the ids that will likely be fetched next. It runs on the host, within a compiled
program: it must not call JAX."""


class Source:
    """Where streamed images come from; equal to itself alone, and static in `jit`."""

    def __init__(self, fetch: Fetch, image_shape: tuple[int, int, int]):
        """Reads images of shape (H, W, channels) by `fetch`."""
        self.image_shape = image_shape
        self.failure: BaseException | None = None
        """What the user is to be told of the last failure; JAX wraps it in its own."""
        self._fetch = fetch

    def read(self, ids: np.ndarray, then: np.ndarray) -> np.ndarray:
        """The images of some ids.

        Args:
            ids: of any shape.
            then: the ids to be read next, or -1 for none. Of any shape.

        Returns:
            uint8. Shape [*ids.shape, H, W, channels].
        """
        ids, then = np.asarray(ids), np.asarray(then)
        try:
            images = self._fetch(ids.ravel(), then[then >= 0])
        except (UserError, KeyboardInterrupt) as error:
            self.failure = error
            raise
        return images.reshape(*ids.shape, *self.image_shape)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["ids"], meta_fields=["source"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """N uint8 images that are fetched when they are used, a batch at a time.

    It stands where an array [N, H, W, channels] may stand, is cut by `images[indices]`
    without fetching any, and is read by `take` and `map_examples`. In a compiled
    program its ids are an argument: other images of the same source, as many, compile
    nothing anew.

    Attributes:
        source: where they come from.
        ids: what the source knows each by. Shape [N] int32.
    """

    source: Source
    ids: np.ndarray | jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, channels)."""
        return (*self.ids.shape, *self.source.image_shape)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def __getitem__(self, indices: Any) -> "Streamed":
        """Those at some positions, streamed as well."""
        return Streamed(self.source, self.ids[indices])

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: all of them may not fit in memory."""
        raise TypeError("streamed images are read by take() or map_examples(), in part")


def stream(
    fetch: Fetch, num_images: int, image_shape: tuple[int, int, int]
) -> Streamed:
    """The images that `fetch` knows by 0 .. N-1.

    >>> zeros = lambda ids, then: np.zeros((len(ids), 2, 2, 1), np.uint8)
    >>> images = stream(zeros, 1_000_000, (2, 2, 1))
    >>> images[10:30].shape, take(images, jnp.array([5, 7, 5])).shape
    ((20, 2, 2, 1), (3, 2, 2, 1))
    """
    return Streamed(Source(fetch, image_shape), np.arange(num_images, dtype=np.int32))


def take(
    images: Images, indices: jax.Array, then: jax.Array | None = None
) -> jax.Array:
    """The images at some positions.

    Args:
        images: Shape [N, H, W, channels].
        indices: Shape [B].
        then: the positions that will be taken next, or -1 for none: streamed images
            are read ahead. Shape [B'].

    Returns:
        Shape [B, H, W, channels].
    """
    if not isinstance(images, Streamed):
        return images[indices]
    ids, indices = jnp.asarray(images.ids), jnp.asarray(indices)
    then = jnp.full_like(indices, -1) if then is None else then
    return jax.pure_callback(
        images.source.read,
        jax.ShapeDtypeStruct((*indices.shape, *images.source.image_shape), jnp.uint8),
        ids[indices],
        jnp.where(then < 0, -1, ids[then]),
        vmap_method="broadcast_all",  # so that a mapped batch is one call
    )


def concatenated(first: Images, second: Images) -> Images:
    """Both, one after the other; of streamed ones, both from one source.

    Raises:
        ValueError: if they are streamed from two sources, or only one of them is.
    """
    if isinstance(first, Streamed) and isinstance(second, Streamed):
        if first.source is second.source:
            ids = [jnp.asarray(first.ids), jnp.asarray(second.ids)]
            return Streamed(first.source, jnp.concatenate(ids))
    elif isinstance(first, jax.Array) and isinstance(second, jax.Array):
        return jnp.concatenate([first, second])
    raise ValueError("images are put together that come from two sources")


def map_examples(
    fn: Callable[..., Any], images: Images, *others: Any, batch_size: int
) -> Any:
    """`fn(image, *others)` of each example, some at a time: `vmap` in bounded memory.

    Args:
        fn: of one example.
        images: Shape [N, H, W, channels].
        *others: pytrees of arrays with the same leading axis.
        batch_size: how many at a time; it changes the speed, not the result. Streamed
            images are read in such batches too, one ahead.

    Returns:
        What `fn` returns, with a leading axis N.
    """
    if not isinstance(images, Streamed):
        return jax.lax.map(
            lambda example: fn(*example), (images, *others), batch_size=batch_size
        )
    positions = jnp.arange(len(images))
    then = positions + batch_size
    then = jnp.where(then < len(images), then, -1)

    def one(example: tuple) -> Any:
        position, then, *others = example
        return fn(take(images, position, then), *others)

    return jax.lax.map(one, (positions, then, *others), batch_size=batch_size)


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
