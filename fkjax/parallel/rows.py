"""Rows computed from each of N examples, which are read a part at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
    """A set of N rows, of which this device reads its share.

    A single device reads all of them. The rows are in memory, or are computed each time
    that they are read, such as the embeddings of a pool that do not fit in memory.

    Attributes:
        num: number of rows, N.
        read: function `read(at, size)` that returns `size` rows of the share, starting
            at its position `at`, as a pytree of arrays with that leading axis. Rows at
            position N of the set and beyond are padding.
        size: number of rows in the share.
        step: number of which `at` and `at + size` must be multiples.
        start: position of the share's first row in the set.
        axis: name of the axis of the mesh over which the rows are shared; None for one
            share.
    """

    num: int
    read: Callable[[int | jax.Array, int], Any]
    size: int
    step: int = 1
    start: int | jax.Array = 0
    axis: str | None = None

    def map(self, fn: Callable[[Any], Any]) -> "Rows":
        """Returns rows computed by `fn` from these when they are read."""
        return self._replace(read=lambda at, size: fn(self.read(at, size)))

    def kept(self) -> "Rows":
        """Computes the rows once, and returns them as rows in memory."""
        return self._replace(read=_reader(self.read(0, self.size)), step=1)

    def gathered(self, share: Any) -> Any:
        """Gathers all N rows on each device.

        Args:
            share: pytree of arrays with one row for each row of this device's share.

        Returns:
            The pytree with a leading axis N.
        """
        if self.axis is not None:
            axis = self.axis
            share = jax.tree.map(
                lambda x: jax.lax.all_gather(x, axis, tiled=True), share
            )
        return jax.tree.map(lambda x: x[: self.num], share)


def rows_of(arrays: Any) -> Rows:
    """Returns the rows of arrays with the same leading axis N.

    >>> import jax.numpy as jnp
    >>> rows_of(jnp.arange(5)).read(2, 3).tolist()
    [2, 3, 4]
    """
    num = len(jax.tree.leaves(arrays)[0])
    return Rows(num, _reader(arrays), num)


def _reader(arrays: Any) -> Callable[[int | jax.Array, int], Any]:
    return lambda at, size: jax.tree.map(lambda x: _part(x, at, size), arrays)


def _part(x: jax.Array, at: int | jax.Array, size: int) -> jax.Array:
    """Returns `size` rows of an array from row `at` on.

    On CPU, XLA slices no bfloat16: it converts the array to float32, and as that does
    not change, it does so before a loop over parts. Integers are sliced as they are;
    with the barrier, it does not copy the array to convert it to them.
    """
    if x.dtype != jnp.bfloat16:
        return jax.lax.dynamic_slice_in_dim(x, at, size)
    x, at = jax.lax.optimization_barrier((x, at))
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16)
    part = jax.lax.dynamic_slice_in_dim(bits, at, size)
    return jax.lax.bitcast_convert_type(part, x.dtype)
