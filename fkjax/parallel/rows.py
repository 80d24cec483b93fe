"""What is computed of each of N examples, as rows that are read a part at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Rows(NamedTuple):
    """N rows, of which this device reads a share: all of them, if it is alone.

    They may lie in memory, or be made whenever they are read, such as the embeddings of
    a pool that does not fit there.

    Attributes:
        num: N.
        read: `read(at, size)`: the share's rows from `at` on: a pytree of arrays with
            a leading axis `size`. Those at position N and beyond are not real.
        size: of the share.
        step: a part of the share begins and ends at multiples of it.
        start: the position of the share's first row.
        axis: of the mesh along which the shares lie; None if there is one share.
    """

    num: int
    read: Callable[[int | jax.Array, int], Any]
    size: int
    step: int = 1
    start: int | jax.Array = 0
    axis: str | None = None

    def map(self, fn: Callable[[Any], Any]) -> "Rows":
        """The rows that `fn` makes of these, some at a time."""
        return self._replace(read=lambda at, size: fn(self.read(at, size)))

    def kept(self) -> "Rows":
        """The same, computed once and held in memory."""
        return self._replace(read=_reader(self.read(0, self.size)), step=1)

    def gathered(self, share: Any) -> Any:
        """All N rows on every device, of what each has one row of its share of."""
        if self.axis is not None:
            axis = self.axis
            share = jax.tree.map(
                lambda x: jax.lax.all_gather(x, axis, tiled=True), share
            )
        return jax.tree.map(lambda x: x[: self.num], share)


def rows_of(arrays: Any) -> Rows:
    """The rows of arrays with the same leading axis N.

    >>> rows_of(jnp.arange(5)).read(2, 3).tolist()
    [2, 3, 4]
    """
    num = len(jax.tree.leaves(arrays)[0])
    return Rows(num, _reader(arrays), num)


def _reader(arrays: Any) -> Callable[[int | jax.Array, int], Any]:
    return lambda at, size: jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, at, size), arrays
    )
