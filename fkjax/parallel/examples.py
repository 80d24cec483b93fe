"""Sets of examples that are read by position: in memory, on disk or on devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples, UserError

Fetch = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function `fetch(ids, then) -> examples` that returns the examples with some ids.

The ids have shape [B], the examples [B, H, W, channels]. `then`, of shape [B'], are the
ids that will likely be fetched next. The function is called on the host from a compiled
program, so it must not call JAX."""


class Source:
    """The source of streamed examples.

    A source is a static value under `jit`, and is only equal to itself.
    """

    def __init__(
        self,
        fetch: Fetch,
        example_shape: tuple[int, int, int],
        dtype: np.dtype | type = np.uint8,
    ):
        """Creates a source of examples of shape (H, W, channels), read by `fetch`."""
        self.example_shape = example_shape
        self.dtype = np.dtype(dtype)
        self.failure: BaseException | None = None
        """The last exception of `read`; JAX replaces it by an exception of its own."""
        self._fetch = fetch

    def read(self, ids: np.ndarray, then: np.ndarray) -> np.ndarray:
        """Reads the examples with some ids.

        Args:
            ids: ids of the examples, of any shape.
            then: ids that will be read next, or -1 for none, of any shape.

        Returns:
            The examples. Shape [*ids.shape, H, W, channels].
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
    """A set of N examples that are fetched when they are used, one batch at a time.

    It can be used in place of an array [N, H, W, channels]. `examples[indices]` selects
    examples without fetching them; `take` and `fkjax.parallel.mapping` read them. The
    ids are an argument of a compiled program, so that it need not be compiled again for
    the same number of other examples of the source.

    Attributes:
        source: source of the examples.
        ids: id of each example in the source. Shape [N] int32.
    """

    source: Source
    ids: np.ndarray | jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (N, H, W, channels)."""
        return (*self.ids.shape, *self.source.example_shape)

    @property
    def ndim(self) -> int:
        """The number of axes, 4."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the examples."""
        return self.source.dtype

    def __len__(self) -> int:
        """Returns the number of examples, N."""
        return len(self.ids)

    def __getitem__(self, indices: Any) -> "Streamed":
        """Returns the examples at some positions, streamed as well."""
        return Streamed(self.source, self.ids[indices])

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises a TypeError, because the examples may not fit in memory."""
        raise TypeError(
            "streamed examples cannot be converted to an array, as they may not fit "
            "in memory; read them by take() or map_examples()"
        )


def stream(
    fetch: Fetch,
    num_examples: int,
    example_shape: tuple[int, int, int],
    dtype: np.dtype | type = np.uint8,
) -> Streamed:
    """Creates a set of N streamed examples, with the ids 0 to N-1.

    >>> zeros = lambda ids, then: np.zeros((len(ids), 2, 2, 1), np.uint8)
    >>> examples = stream(zeros, 1_000_000, (2, 2, 1))
    >>> examples[10:30].shape, take(examples, jnp.array([5, 7, 5])).shape
    ((20, 2, 2, 1), (3, 2, 2, 1))

    Args:
        fetch: function that reads examples by their ids.
        num_examples: number of examples, N.
        example_shape: shape of one example, (H, W, channels).
        dtype: dtype of the examples.

    Returns:
        The examples.
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
    """A set of examples of which each device has a share (`fkjax.parallel.devices`).

    It can be used in place of an array in a program that `shard_map` runs on all
    devices. There, `take` and `examples[indices]` return the same examples on all
    devices, and `map_examples` maps the share of each device on that device.

    Attributes:
        rows: share of the N examples of this device, within the program; outside, all
            shares concatenated. The last share is padded. An array or `Streamed`.
        ids: positions among the N examples of those in this set; None for all. Shape
            [n].
        num: number of examples, N.
        axis: name of the axis of the mesh.
    """

    rows: Any
    ids: jax.Array | None
    num: int
    axis: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, H, W, channels)."""
        return (len(self), *self.rows.shape[1:])

    def __len__(self) -> int:
        """Returns the number of examples, n or N."""
        return self.num if self.ids is None else len(self.ids)

    def __getitem__(self, indices: Any) -> Any:
        """Returns the examples at some positions.

        They are sharded if the examples are streamed, and an array on each device
        otherwise.
        """
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
        """Returns the examples at some positions on all devices; see `take`.

        Each device contributes the examples of its share.
        """

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
    """Returns the examples at some positions.

    Args:
        examples: the set of examples. Shape [N, H, W, channels].
        indices: positions of the examples. Shape [B].
        then: positions that will be taken next, or -1 for none, so that streamed
            examples can be read ahead. Shape [B'].

    Returns:
        The examples. Shape [B, H, W, channels].
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
        vmap_method="broadcast_all",  # one call for a batch under `vmap`
    )


def concatenated(first: Examples, second: Examples) -> Examples:
    """Concatenates two sets of examples, both in memory or both from one source.

    Raises:
        ValueError: if only one of them is streamed, or they have different sources.
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
    raise ValueError(
        "examples to concatenate must both be arrays or be streamed from one source, "
        f"got {type(first).__name__} and {type(second).__name__}"
    )


def _interleaved(first: Sharded, second: Sharded) -> Sharded:
    """Concatenates two sharded sets: on each device, its shares of both."""
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
