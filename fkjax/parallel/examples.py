"""Examples as a set that is read by position, wherever they are kept."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples, UserError

Fetch = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`fetch(ids [B], then [B']) -> examples` of shape [B, H, W, channels]. `then` are the
ids that will likely be fetched next. It runs on the host, within a compiled program: it
must not call JAX."""


class Source:
    """Where streamed examples come from; equal to itself alone, and static in `jit`."""

    def __init__(
        self,
        fetch: Fetch,
        example_shape: tuple[int, int, int],
        dtype: np.dtype | type = np.uint8,
    ):
        """Reads examples of shape (H, W, channels) by `fetch`."""
        self.example_shape = example_shape
        self.dtype = np.dtype(dtype)
        self.failure: BaseException | None = None
        """What the user is to be told of the last failure; JAX wraps it in its own."""
        self._fetch = fetch

    def read(self, ids: np.ndarray, then: np.ndarray) -> np.ndarray:
        """The examples of some ids.

        Args:
            ids: of any shape.
            then: the ids to be read next, or -1 for none. Of any shape.

        Returns:
            Shape [*ids.shape, H, W, channels].
        """
        ids, then = np.asarray(ids), np.asarray(then)
        try:
            examples = self._fetch(ids.ravel(), then[then >= 0])
        except (UserError, KeyboardInterrupt) as error:
            self.failure = error
            raise
        return examples.reshape(*ids.shape, *self.example_shape)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["ids"], meta_fields=["source"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """N examples that are fetched when they are used, a batch at a time.

    It stands where an array [N, H, W, channels] may stand, is cut by
    `examples[indices]` without fetching any, and is read by `take` and
    `fkjax.parallel.mapping`. In a compiled program its ids are an argument: other
    examples of the same source, as many, compile nothing anew.

    Attributes:
        source: where they come from.
        ids: what the source knows each by. Shape [N] int32.
    """

    source: Source
    ids: np.ndarray | jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, channels)."""
        return (*self.ids.shape, *self.source.example_shape)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """uint8, or that of an array's rows."""
        return self.source.dtype

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def __getitem__(self, indices: Any) -> "Streamed":
        """Those at some positions, streamed as well."""
        return Streamed(self.source, self.ids[indices])

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: all of them may not fit in memory."""
        raise TypeError(
            "streamed examples are read by take() or map_examples(), in part"
        )


def stream(
    fetch: Fetch,
    num_examples: int,
    example_shape: tuple[int, int, int],
    dtype: np.dtype | type = np.uint8,
) -> Streamed:
    """The examples of a dtype that `fetch` knows by 0 .. N-1.

    >>> zeros = lambda ids, then: np.zeros((len(ids), 2, 2, 1), np.uint8)
    >>> examples = stream(zeros, 1_000_000, (2, 2, 1))
    >>> examples[10:30].shape, take(examples, jnp.array([5, 7, 5])).shape
    ((20, 2, 2, 1), (3, 2, 2, 1))
    """
    source = Source(fetch, example_shape, dtype)
    return Streamed(source, np.arange(num_examples, dtype=np.int32))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "ids"],
    meta_fields=["num", "axis"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Sharded:
    """Examples of which each device of a mesh has a share (`fkjax.parallel.devices`).

    It stands where an array may stand, in a program that `shard_map` runs on all
    devices alike: there, `take` and what is cut by `examples[indices]` are the same on
    all of them, and `map_examples` lets each work on its own share.

    Attributes:
        rows: in the program this device's share of the N examples; outside, all shares,
            one after the other. The last is filled up. An array or `Streamed`.
        ids: the positions of the examples that are meant among the N; None for all.
            Shape [n].
        num: N.
        axis: of the mesh.
    """

    rows: Any
    ids: jax.Array | None
    num: int
    axis: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, channels)."""
        return (len(self), *self.rows.shape[1:])

    def __len__(self) -> int:
        """The number of examples, n or N."""
        return self.num if self.ids is None else len(self.ids)

    def __getitem__(self, indices: Any) -> Any:
        """Those at some positions, streamed if these are, else on every device."""
        ids = jnp.arange(self.num) if self.ids is None else self.ids
        chosen = dataclasses.replace(self, ids=ids[indices])
        if isinstance(self.rows, Streamed):
            return chosen
        return take(chosen, jnp.arange(len(chosen)))

    @property
    def start(self) -> jax.Array:
        """The position of the first example of this device's share."""
        return jax.lax.axis_index(self.axis) * len(self.rows)

    def take(self, indices: jax.Array, then: jax.Array | None) -> jax.Array:
        """`take`: every device gives what it has of it, to all."""

        def own(indices: jax.Array, otherwise: int) -> tuple[jax.Array, jax.Array]:
            at = indices if self.ids is None else self.ids[indices]
            at -= self.start
            is_own = (at >= 0) & (at < len(self.rows))
            return jnp.where(is_own, at, otherwise), is_own

        at, is_own = own(jnp.asarray(indices), 0)
        if then is not None:
            then = jnp.where(then < 0, -1, own(then, -1)[0])
        examples = take(self.rows, at, then)
        return jax.lax.psum(
            jnp.where(is_own[..., None, None, None], examples, 0), self.axis
        )


def take(
    examples: Examples, indices: jax.Array, then: jax.Array | None = None
) -> jax.Array:
    """The examples at some positions.

    Args:
        examples: Shape [N, H, W, channels].
        indices: Shape [B].
        then: the positions that will be taken next, or -1 for none: streamed examples
            are read ahead. Shape [B'].

    Returns:
        Shape [B, H, W, channels].
    """
    if isinstance(examples, Sharded):
        return examples.take(indices, then)
    if not isinstance(examples, Streamed):
        return jnp.asarray(examples)[indices]
    ids, indices = jnp.asarray(examples.ids), jnp.asarray(indices)
    then = jnp.full_like(indices, -1) if then is None else then
    return jax.pure_callback(
        examples.source.read,
        jax.ShapeDtypeStruct(
            (*indices.shape, *examples.source.example_shape), examples.dtype
        ),
        ids[indices],
        jnp.where(then < 0, -1, ids[then]),
        vmap_method="broadcast_all",  # so that a mapped batch is one call
    )


def concatenated(first: Examples, second: Examples) -> Examples:
    """Both, one after the other; of streamed ones, both from one source.

    Raises:
        ValueError: if they are streamed from two sources, or only one of them is.
    """
    if isinstance(first, Sharded) and isinstance(first.rows, Streamed):
        if isinstance(second, Sharded) and isinstance(second.rows, Streamed):
            return _interleaved(first, second)
    elif isinstance(first, Sharded):
        first = first[:]
    if isinstance(first, Streamed) and isinstance(second, Streamed):
        if first.source is second.source:
            ids = [jnp.asarray(first.ids), jnp.asarray(second.ids)]
            return Streamed(first.source, jnp.concatenate(ids))
    elif isinstance(first, jax.Array) and isinstance(second, jax.Array):
        return jnp.concatenate([first, second])
    raise ValueError("examples are put together that come from two sources")


def _interleaved(first: Sharded, second: Sharded) -> Sharded:
    """Each device has its share of the first, and after it its share of the second."""
    sizes = len(first.rows), len(second.rows)

    def ids(part: Sharded, size: int, before: int) -> jax.Array:
        at = jnp.arange(part.num) if part.ids is None else part.ids
        return at // size * sum(sizes) + before + at % size

    return Sharded(
        concatenated(first.rows, second.rows),
        jnp.concatenate([ids(first, sizes[0], 0), ids(second, sizes[1], sizes[0])]),
        sum(sizes) * jax.lax.axis_size(first.axis),
        first.axis,
    )
