"""Columns of Parquet files: numbers, text, or lists of the same length."""

from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError


def parquet_file(path: Path) -> Any:
    """Opens a Parquet file as a `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True)


class ParquetColumn:
    """A column of a Parquet file, read a row group at a time."""

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
            raise UserError(f"the column {name} has no row; write one for each example")
        first = self._group(0)
        self.shape = (int(self._starts[-1]), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        """Returns the number of rows, N."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the rows of a slice."""
        start, stop, _ = rows.indices(len(self))
        parts = [np.zeros((0, *self.shape[1:]), self.dtype)]
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for group in range(first, len(self._groups)):
            at = int(self._starts[group])
            if at >= stop:
                break
            found = self._group(group)
            if found.shape[1:] != self.shape[1:]:
                raise self._uneven()
            parts.append(found[max(0, start - at) : stop - at])
        return np.concatenate(parts)

    def _group(self, group: int) -> np.ndarray:
        """Returns the rows of a group that is not empty."""
        if self._cached is None or self._cached[0] != group:
            try:
                table = self._file.read_row_group(self._groups[group], [self._name])
                rows = self._to_numpy(table.column(0).combine_chunks())
            except UserError:
                raise
            except Exception as error:  # the library raises many kinds of errors
                raise UserError(
                    f"the column {self._name} is damaged after row "
                    f"{self._starts[group]} ({error}); write the file again"
                ) from error
            self._cached = group, rows
        return self._cached[1]

    def _to_numpy(self, array: Any) -> np.ndarray:
        import pyarrow

        if array.null_count:
            raise UserError(f"the column {self._name} has empty cells; fill them")
        if isinstance(array, pyarrow.FixedShapeTensorArray):
            return array.to_numpy_ndarray()
        if isinstance(array, pyarrow.ExtensionArray):
            if array.type.extension_name == "arrow.uuid":
                return np.array([str(value) for value in array.to_pylist()])
            return self._to_numpy(array.storage)
        if pyarrow.types.is_decimal(array.type):
            array = array.cast(pyarrow.float64())
        if pyarrow.types.is_struct(array.type) or pyarrow.types.is_map(array.type):
            raise UserError(
                f"the column {self._name} is of type {array.type}; write numbers, text "
                "or lists of numbers"
            )
        if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
            found = array.to_numpy(zero_copy_only=False)
            if not found.dtype.hasobject:
                return found
            return found if isinstance(found[0], bytes) else found.astype(str)
        flat = array.flatten()
        if flat.null_count or len(flat) % len(array):
            raise self._uneven()
        if hasattr(array, "value_lengths") and len(set(array.value_lengths())) > 1:
            raise self._uneven()
        width = len(flat) // len(array)
        if not width:
            return np.zeros((len(array), 0), np.float32)
        found = self._to_numpy(flat)
        return found.reshape(len(array), width, *found.shape[1:])

    def _uneven(self) -> UserError:
        return UserError(
            f"the column {self._name} must contain lists of the same length"
        )
