"""Columns of Parquet files, read a row group at a time."""

from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.data.arrow import FIRST, no_row, to_numpy, uneven
from fkjax.data.columns import Lazy


def parquet_file(path: Path) -> Any:
    """Opens a Parquet file as a `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True)


class ParquetColumn(Lazy):
    """A column of a Parquet file."""

    def __init__(self, file: Any, name: str):
        """Reads the first rows, which have the shape and the type of the others.

        Args:
            file: file that `parquet_file` opened.
            name: name of the column.

        Raises:
            UserError: if the column has no rows or cannot be read.
        """
        self._file, self._name = file, name
        sizes = [
            file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)
        ]
        self._groups = [group for group, size in enumerate(sizes) if size]
        self._starts = np.cumsum([0, *(sizes[group] for group in self._groups)])
        self._cached: tuple[int, np.ndarray] | None = None
        if not self._groups:
            raise no_row(name)
        first = self._converted(0, is_first=True)
        self.shape = (int(self._starts[-1]), *first.shape[1:])
        self.dtype = first.dtype

    def _read(self, start: int, stop: int) -> np.ndarray:
        parts = [np.zeros((0, *self.shape[1:]), self.dtype)]
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for group in range(first, len(self._groups)):
            at = int(self._starts[group])
            if at >= stop:
                break
            found = self._group(group)
            if found.shape[1:] != self.shape[1:]:
                raise uneven(self._name, f"those from row {at} have {found.shape[1:]}")
            parts.append(found[max(0, start - at) : stop - at])
        return np.concatenate(parts)

    def _group(self, group: int) -> np.ndarray:
        """Returns the rows of a group that is not empty."""
        if self._cached is None or self._cached[0] != group:
            self._cached = group, self._converted(group)
        return self._cached[1]

    def _converted(self, group: int, *, is_first: bool = False) -> np.ndarray:
        """Reads a group, or its first rows, which shards need not read in full."""
        at, names = int(self._starts[group]), [self._name]
        try:
            if is_first:
                rows = next(
                    self._file.iter_batches(FIRST, [self._groups[group]], names)
                )
            else:
                rows = self._file.read_row_group(self._groups[group], names)
            return to_numpy(rows.column(0), self._name, at)
        except UserError:
            raise
        except Exception as error:  # the library raises many kinds of errors
            raise UserError(
                f"the column {self._name} is damaged after row {at} ({error}); write "
                "the file again"
            ) from error
