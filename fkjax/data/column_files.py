"""Tables of columns, read from files of arrays or given as arrays, and checked.

`fkjax.data.array_files` lists the formats. An array can be in several files, its
shards; see `fkjax.data.shards`.
"""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fkjax.base import UserError
from fkjax.data.array_files import NAMES, Readers, arrays_in
from fkjax.data.column_types import OF_TEXT, as_array, cure, plain
from fkjax.data.columns import Columns, Lazy, Sliced, Table
from fkjax.data.frames import as_mapping
from fkjax.data.shards import Shard, Shards, files_of, require_shards

Paths = str | os.PathLike | Sequence[str | os.PathLike]
"""Paths of files of arrays, as in `read_columns`."""


def read_columns(paths: Paths) -> Columns:
    """Opens the arrays of one or more files, by name.

    A .npy file contains one array. Its name is the end of the file name, as in
    pool_features.npy, or is given before an equals sign, as in features=a.npy. Arrays
    whose names are not in `NAMES` are ignored.

    If several files contain the same arrays, they are shards, whose rows follow each
    other. Shards are given as a folder or a pattern (see
    `fkjax.data.shards.files_of`), or as files whose names differ only in numbers.

    Args:
        paths: paths of the files.

    Returns:
        The arrays, whose rows are read when they are used.

    Raises:
        UserError: if a file cannot be read, two files that are not shards contain
            arrays of the same name, or arrays differ in length.
    """
    columns = {name: read() for name, read in _find(paths).items()}
    _common_length(columns, f"the arrays of {_shown(paths)}")
    return columns


def _find(paths: Paths) -> Readers:
    """Finds the arrays of files whose names are in `NAMES`, without opening them."""
    arrays: dict[str, list[Shard]] = {}
    readers: Readers = {}
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name, text = _named(str(given))
        files, is_set = files_of(text)
        for path in files:
            found = arrays_in(path, name)
            readers |= found
            for key in found:
                shard = Shard(path, name, frozenset(found), is_set)
                arrays.setdefault(key, []).append(shard)
    if not arrays:
        raise UserError(
            f"{_shown(paths)} contain none of the arrays {', '.join(NAMES)}; give the "
            "arrays these names"
        )
    require_shards(arrays)
    return {
        name: functools.partial(Shards, name, arrays[name])
        if len(arrays[name]) > 1
        else read
        for name, read in readers.items()
    }


def _shown(paths: Paths) -> str:
    is_one = isinstance(paths, (str, os.PathLike))
    return ", ".join(map(str, [paths] if is_one else paths))


def _named(path: str) -> tuple[str | None, str]:
    name, equals, rest = path.partition("=")
    return (name, rest) if equals and name in NAMES else (None, path)


def as_table(
    given: Any, *, needed: Iterable[str], what: str, any_of: Sequence[str] = ()
) -> Table:
    """Checks arrays, or reads them from files.

    Args:
        given: mapping of arrays, or a table as in `fkjax.data.frames.as_mapping`; or
            paths as in `read_columns`.
        needed: names of the arrays that are required, with ids where they are given.
        what: name of the table in messages, such as "pool".
        any_of: names of arrays one of which is required; the first that is there is
            used, and the others are left out.

    Returns:
        The arrays that are required. The ids are the array `ids`, in which bytes are
        decoded, or positions. Other arrays are left out.

    Raises:
        UserError: if an array is missing, arrays differ in length, the ids are not one
            for each example, or a file is invalid (see `read_columns`).
    """
    needed, arrays = tuple(needed), as_mapping(given, NAMES)
    is_given = arrays is not None
    found: Mapping[str, Any] = arrays if is_given else _find(_paths(given, what))
    for name in needed:
        if name not in found:
            raise UserError(
                f"the {what} must have {name}, got "
                f"{', '.join(map(str, found)) or 'no array'}"
            )
    chosen = [name for name in any_of if name in found][:1]
    if any_of and not chosen:
        raise UserError(
            f"the {what} must have {any_of[0]}, got "
            f"{', '.join(map(str, found)) or 'no array'}; "
            f"{' or '.join(any_of[1:])} will do in its place"
        )
    wanted = (*needed, *chosen, "ids")
    columns: dict[str, Any] = {
        name: _converted(found, name, what) if is_given else found[name]()
        for name in NAMES
        if name in found and name in wanted
    }
    for name, column in columns.items():
        if len(column.shape) == 0:
            raise UserError(
                f"{name} of the {what} must have one row for each example, got one "
                "number"
            )
    which = f"the {what}" if is_given else _shown(given)
    num = _common_length(columns, f"the arrays of {which}")
    for name, column in columns.items():
        if name in OF_TEXT or isinstance(column, np.ndarray):
            is_read = isinstance(column, np.ndarray)
            column = plain(column if is_read else np.asarray(column[:]), name, what)
            columns[name] = _one_each(column, name, what) if name in OF_TEXT else column
    return Table(columns, columns["ids"] if "ids" in columns else range(num))


def _converted(arrays: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        given = arrays[name]  # of an opened .npz file, the array is read here
        if isinstance(given, Lazy):
            return given
        if np.ma.is_masked(given):
            raise UserError(f"{name} of the {what} has masked values; fill them")
        if isinstance(given, np.ndarray):
            return given
        return Sliced(given) if _reads_slices(given) else as_array(given)
    except UserError:
        raise
    except Exception as error:  # libraries raise many kinds of errors
        fix = cure(name) if "Object arrays" in str(error) else "a NumPy array"
        raise UserError(
            f"{name} of the {what} could not be converted to an array ({error}); give "
            f"{fix}"
        ) from error


def _reads_slices(given: Any) -> bool:
    """Returns whether an array is not in memory, such as those of h5py or Zarr."""
    is_in_memory = isinstance(given, jax.Array) or hasattr(given, "to_numpy")
    has_rows = hasattr(given, "__getitem__") and hasattr(given, "shape")
    is_array = has_rows and isinstance(getattr(given, "dtype", None), np.dtype)
    return is_array and not is_in_memory and len(given.shape) > 0


def _one_each(column: np.ndarray, name: str, what: str) -> np.ndarray:
    """Returns ids or labels, one for each example. Shape [N].

    Raises:
        UserError: if there are several for each example.
    """
    if column.ndim == 2 and column.shape[1] == 1:
        return column[:, 0]
    if column.ndim > 1:
        advice = "give one column of them"
        if name == "labels" and column.ndim == 2 and column.dtype.kind in "biuf":
            advice = "if they are one-hot, give labels.argmax(axis=1)"
        raise UserError(
            f"{name} of the {what} must be one for each example, got shape "
            f"{column.shape}; {advice}"
        )
    return column


def _paths(given: Any, what: str) -> Paths:
    """Returns what was given if it is paths; raises an error if not."""
    paths = [given] if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(paths, (list, tuple)) or not all(
        isinstance(path, (str, os.PathLike)) for path in paths
    ):
        raise UserError(
            f"the {what} must be a dict of arrays, or paths of files, got "
            f"{type(given).__name__}; give a dict such as "
            "{'features': ..., 'logits': ...}"
        )
    return paths


def _common_length(columns: Columns, which: str) -> int:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise UserError(f"{which} must have the same length, got {shown}")
    shards = [column for column in columns.values() if isinstance(column, Shards)]
    for column in shards:
        column.require_rows_of(shards[0])
    return next(iter(lengths.values()))
