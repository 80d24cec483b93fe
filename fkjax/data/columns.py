"""Arrays that other programs wrote, by name: read a part at a time, never whole.

The formats are .npz and .npy (NumPy), .safetensors and .parquet. Arrays in a .npz that
`numpy.savez` wrote are mapped into memory like those of a .npy; compressed ones are
not, and are read whole.
"""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples
from fkjax.parallel.examples import stream


class Column(Protocol):
    """An array of which rows can be had: one of NumPy's, or one in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Some rows: by a slice; of NumPy's arrays by positions, too."""
        ...


Columns = Mapping[str, Any]
"""Arrays with one row for each example, by name."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Arrays of equal length, with the ids of the examples.

    `fkjax.data.column_files.as_table` makes and checks one.

    Attributes:
        columns: arrays of shape [N, ...], by name.
        ids: what the user calls each example: an array or a range. Length N.
    """

    columns: Columns
    ids: Any

    def __len__(self) -> int:
        """The number N of examples."""
        return len(self.ids)

    def __getitem__(self, name: str) -> Column:
        """Returns the array of a name."""
        return self.columns[name]


def take_rows(column: Column, ids: np.ndarray) -> np.ndarray:
    """The rows at some positions. Shape [B, ...]."""
    ids = np.asarray(ids)
    if len(ids) and (np.diff(ids) == 1).all():
        return np.asarray(column[int(ids[0]) : int(ids[-1]) + 1])
    if isinstance(column, np.ndarray):
        return np.asarray(column[ids])
    rows = [np.asarray(column[int(i) : int(i) + 1]) for i in ids]
    return np.concatenate(rows) if rows else np.asarray(column[:0])


Tell = Callable[[int, int], None]
"""`tell(rows, N)` is called whenever some of N rows were read."""

_IN_MEMORY = 1 << 27  # bytes: more than that is read when it is used


def images_of(
    read: Callable[[np.ndarray], np.ndarray],
    num: int,
    shape: tuple[int, int, int],
    dtype: Any = np.float32,
    *,
    tell: Tell | None = None,
    is_small: bool = False,
) -> Examples:
    """Rows as images: in memory if they are few, else read a batch at a time.

    Args:
        read: `read(ids [B]) -> rows [B, *shape]`, on any thread.
        num: N.
        shape: of a row.
        dtype: of its numbers.
        tell: is told of what is read when it is used.
        is_small: keep them in memory, however many they are.

    Returns:
        Shape [N, *shape].
    """
    num_bytes = num * int(np.prod(shape)) * np.dtype(dtype).itemsize
    if is_small or num_bytes <= _IN_MEMORY:
        return jnp.asarray(read(np.arange(num)))
    return stream(_Ahead(read, num, tell), num, shape, dtype)


class _Ahead:
    """A `fkjax.parallel.examples.Fetch` that reads the next batch meanwhile."""

    def __init__(
        self, read: Callable[[np.ndarray], np.ndarray], num: int, tell: Tell | None
    ):
        self._read, self._num, self._tell = read, num, tell
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[np.ndarray, Future] | None = None
        self._lock = threading.Lock()

    def __call__(self, ids: np.ndarray, then: np.ndarray) -> np.ndarray:
        with self._lock:
            ahead, self._ahead = self._ahead, None
            is_ready = ahead is not None and np.array_equal(ahead[0], ids)
            future = ahead[1] if ahead is not None and is_ready else None
            rows = future.result() if future else self._read(ids)
            if len(then):
                self._ahead = then, self._thread.submit(self._read, then)
        if self._tell is not None:
            self._tell(len(ids), self._num)
        return rows
