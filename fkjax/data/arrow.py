"""Columns of Arrow: numbers, text, or lists of the same length."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.data.columns import Lazy

FIRST = 1024
"""The number of rows that show the shape and the type of a column."""

_SHOWN = 20  # rows in one message


class NoRowError(UserError):
    """Raised if a column has no rows, from which its shape and type are known."""


class ArrowColumn(Lazy):
    """A column of a table that gives its rows as Arrow arrays."""

    def __init__(self, name: str, num: int, read: Callable[[int, int], Any]):
        """Reads the first rows, which have the shape and the type of the others.

        Args:
            name: name of the column.
            num: number of rows, N.
            read: function `read(start, stop)` that returns rows as an Arrow array.

        Raises:
            UserError: if the column has no rows or cannot be read.
        """
        self._name, self._rows = name, read
        if not num:
            raise no_row(name)
        first = self._converted(0, min(num, FIRST))
        self.shape, self.dtype = (num, *first.shape[1:]), first.dtype

    def _read(self, start: int, stop: int) -> np.ndarray:
        if start == stop:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        found = self._converted(start, stop)
        if found.shape[1:] != self.shape[1:]:
            raise uneven(self._name, f"those from row {start} have {found.shape[1:]}")
        return found

    def _converted(self, start: int, stop: int) -> np.ndarray:
        try:
            return to_numpy(self._rows(start, stop), self._name, start)
        except UserError:
            raise
        except Exception as error:  # libraries raise many kinds of errors
            raise UserError(
                f"the column {self._name} could not be read from row {start} "
                f"({error}); give a dict of arrays of NumPy"
            ) from error


def column_of(table: Any, name: str) -> ArrowColumn:
    """Returns a column of a `pyarrow.Table`."""
    column = table.column(name)
    return ArrowColumn(
        name,
        len(column),
        lambda start, stop: column.slice(start, stop - start).combine_chunks(),
    )


def table_in(path: Path) -> Any:
    """Maps a file of Arrow, in either of its formats, as a `pyarrow.Table`."""
    import pyarrow

    file = pyarrow.memory_map(os.fspath(path))
    try:
        return pyarrow.ipc.open_stream(file).read_all()
    except pyarrow.ArrowInvalid:  # the format with a footer, as Feather has it
        return pyarrow.ipc.open_file(file).read_all()


def table_of(given: Any) -> Any:
    """Converts a table of a library that exports Arrow, such as Polars.

    Args:
        given: table with `__arrow_c_stream__`.

    Raises:
        UserError: if PyArrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f"a table of type {type(given).__name__} needs pyarrow; run pip install "
            "'fkjax[arrays]', or give a dict of arrays"
        ) from error
    return given if isinstance(given, pyarrow.Table) else pyarrow.table(given)


def to_numpy(array: Any, name: str, start: int = 0) -> np.ndarray:
    """Converts an Arrow array.

    Args:
        array: array of numbers, text, or lists of the same length, of one or more rows.
        name: name of the column in messages.
        start: row of the column with which the array begins.

    Returns:
        The rows. Shape [n, ...].

    Raises:
        UserError: if a row is empty, lists differ in length, or the type is another.
    """
    import pyarrow

    if isinstance(array, pyarrow.ChunkedArray):
        array = array.combine_chunks()
    if array.null_count:
        raise UserError(
            f"the column {name} has empty cells in {_rows(array, start)}; fill them"
        )
    if isinstance(array, pyarrow.FixedShapeTensorArray):
        return array.to_numpy_ndarray()
    if isinstance(array, pyarrow.ExtensionArray):
        if array.type.extension_name == "arrow.uuid":
            return np.array([str(value) for value in array.to_pylist()])
        return to_numpy(array.storage, name, start)
    if pyarrow.types.is_dictionary(array.type):
        return to_numpy(array.dictionary, name)[array.indices.to_numpy()]
    if pyarrow.types.is_decimal(array.type):
        array = array.cast(pyarrow.float64())
    if pyarrow.types.is_struct(array.type) or pyarrow.types.is_map(array.type):
        raise UserError(
            f"the column {name} is of type {array.type}; write numbers, text or lists "
            "of numbers"
        )
    if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
        found = array.to_numpy(zero_copy_only=False)
        if not found.dtype.hasobject:
            return found
        return found if isinstance(found[0], bytes) else found.astype(str)
    if hasattr(array, "value_lengths"):
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        others = np.flatnonzero(lengths != lengths[0])
        if len(others):
            raise uneven(
                name,
                f"row {start} has {lengths[0]} and row {start + others[0]} "
                f"{lengths[others[0]]}",
            )
    flat = array.flatten()
    width = len(flat) // len(array)
    if flat.null_count:
        row = start + int(np.flatnonzero(flat.is_null())[0]) // width
        raise uneven(name, f"a number in row {row} is missing")
    if not width:
        return np.zeros((len(array), 0), np.float32)
    found = to_numpy(flat, name)
    return found.reshape(len(array), width, *found.shape[1:])


def no_row(name: str) -> NoRowError:
    """Returns the error for a column without rows."""
    return NoRowError(f"the column {name} has no row; write one for each example")


def uneven(name: str, what: str) -> UserError:
    """Returns the error for lists of different lengths.

    Args:
        name: name of the column.
        what: description of the first difference.
    """
    return UserError(
        f"the column {name} must contain lists of the same length without empty "
        f"numbers, but {what}"
    )


def _rows(array: Any, start: int) -> str:
    rows = start + np.flatnonzero(array.is_null())
    more = ", ..." if len(rows) > _SHOWN else ""
    return (
        f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_SHOWN].tolist()))}"
        f"{more}"
    )
