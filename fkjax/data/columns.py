"""Named arrays with one row for each example, of which parts can be read."""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples
from fkjax.data.column_types import with_float32
from fkjax.parallel.examples import stream


class Column(Protocol):
    """An array of N rows: a NumPy array, or an array in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, (N, ...)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements."""
        ...

    def __len__(self) -> int:
        """Returns the number of rows, N."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Returns the rows of a slice; of NumPy arrays, also rows by positions."""
        ...


class Lazy:
    """A `Column` whose rows are read when they are used.

    Subclasses set `shape` and `dtype`, and read the rows from `start` to `stop`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        """Returns the number of rows, N."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the rows of a slice; there are none past the end."""
        start, stop, _ = rows.indices(len(self))
        return self._read(start, max(start, stop))

    def _read(self, start: int, stop: int) -> np.ndarray:
        raise NotImplementedError  # each format has its own


class Sliced(Lazy):
    """An array of another library that reads slices, such as h5py, Zarr or Dask."""

    def __init__(self, array: Any):
        """Stores the array.

        Args:
            array: object with a shape, a dtype of NumPy, and rows by slices.
        """
        self._array, self.shape, self.dtype = array, tuple(array.shape), array.dtype
        if self.dtype == "V2":  # how files without the type have bfloat16
            self.dtype = np.dtype(jnp.bfloat16)

    def _read(self, start: int, stop: int) -> np.ndarray:
        rows = np.asarray(self._array[start:stop])
        return rows.view(self.dtype) if rows.dtype == "V2" else rows


Columns = Mapping[str, Any]
"""Arrays with one row for each example, by name."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Arrays of equal length, with the ids of the examples.

    `fkjax.data.column_files.as_table` creates and checks a table.

    Attributes:
        columns: arrays of shape [N, ...], by name.
        ids: identifiers of the examples, an array or a range. Length N.
    """

    columns: Columns
    ids: Any

    def __len__(self) -> int:
        """Returns the number of examples, N."""
        return len(self.ids)

    def __getitem__(self, name: str) -> Column:
        """Returns the array of a name."""
        return self.columns[name]


def take_rows(column: Column, ids: np.ndarray) -> np.ndarray:
    """Returns the rows at given positions. Shape [B, ...].

    Floats of types that NumPy lacks, such as bfloat16, are converted to float32.
    """
    ids = np.asarray(ids)
    if len(ids) and (np.diff(ids) == 1).all():
        rows = np.asarray(column[int(ids[0]) : int(ids[-1]) + 1])
    elif isinstance(column, np.ndarray):
        rows = np.asarray(column[ids])
    elif len(ids):
        rows = _scattered_rows(column, ids)
    else:
        rows = np.asarray(column[:0])
    return with_float32(rows)


_SPAN = 1 << 20  # maximum size in bytes of a slice that is read for scattered rows


def _scattered_rows(column: Column, ids: np.ndarray) -> np.ndarray:
    """Returns rows of a file, of which those close to each other are read at once."""
    found, places = np.unique(ids, return_inverse=True)
    row_bytes = int(np.prod(column.shape[1:])) * column.dtype.itemsize
    block = found // max(1, _SPAN // max(1, row_bytes))
    parts = np.split(found, np.flatnonzero(np.diff(block)) + 1)
    rows = [
        np.asarray(column[int(part[0]) : int(part[-1]) + 1])[part - part[0]]
        for part in parts
    ]
    return np.concatenate(rows)[places]


Tell = Callable[[int, int], None]
"""`tell(rows, N)` is called whenever some of N rows have been read."""

_IN_MEMORY = 1 << 27  # maximum size in bytes of rows that are kept in memory


def images_of(
    read: Callable[[np.ndarray], np.ndarray],
    num: int,
    shape: tuple[int, int, int],
    dtype: Any = np.float32,
    *,
    tell: Tell | None = None,
    is_small: bool = False,
) -> Examples:
    """Returns rows as images, in memory or streamed.

    If the rows take more than 128 MiB, they are streamed, that is, read a batch at a
    time when they are used.

    Args:
        read: `read(ids [B]) -> rows [B, *shape]`. It can be called from any thread.
        num: number of rows, N.
        shape: shape of a row.
        dtype: type of the elements.
        tell: function that is called for each batch of streamed rows.
        is_small: whether to keep the rows in memory whatever their size is.

    Returns:
        The images. Shape [N, *shape].
    """
    num_bytes = num * int(np.prod(shape)) * np.dtype(dtype).itemsize
    if is_small or num_bytes <= _IN_MEMORY:
        with jax.debug_nans(False):  # queries report rows of NaN by their ids
            return jnp.asarray(read(np.arange(num)))
    return stream(_Ahead(read, num, tell), num, shape, dtype)


class _Ahead:
    """A `fkjax.parallel.examples.Fetch` that reads one batch ahead."""

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
