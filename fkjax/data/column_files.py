"""Reading of columns from .npy, .npz, .safetensors and .parquet files, or from arrays.

Rows are read when they are used. Arrays in a .npy file, and in a .npz file written by
`numpy.savez`, are mapped into memory. Compressed arrays in a .npz file are read whole.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.data.columns import Column, Columns, Table
from fkjax.files.opening import open_file, takes_too_much

NAMES = ("features", "logits", "images", "labels", "ids")


def read_columns(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> Columns:
    """Opens the arrays of one or more files, by name.

    A .npy file contains one array. Its name is the end of the file name, as in
    pool_features.npy, or is given before an equals sign, as in features=a.npy. Arrays
    whose names are not in `NAMES` are ignored.

    Args:
        paths: paths of the files.

    Returns:
        The arrays, whose rows are read when they are used.

    Raises:
        UserError: if a file cannot be read, two files contain arrays of the same name,
            or arrays differ in length.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    columns: dict[str, Column] = {}
    for path in paths:
        name, path = _named(str(path))
        for key, column in _read(name, Path(path)).items():
            if key in columns:
                raise UserError(
                    f"{path} contains {key}, but a previous file does, too; leave out "
                    "one of them"
                )
            columns[key] = column
    if not columns:
        raise UserError(
            f"{', '.join(map(str, paths))} contain none of the arrays "
            f"{', '.join(NAMES)}; give the arrays these names"
        )
    _common_length(columns, f"the arrays of {', '.join(map(str, paths))}")
    return columns


def _named(path: str) -> tuple[str | None, str]:
    name, equals, rest = path.partition("=")
    return (name, rest) if equals and name in NAMES else (None, path)


def _read(name: str | None, path: Path) -> dict[str, Column]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(
            f"{path} has none of the endings {', '.join(_READERS)}; save it in one of "
            "these formats"
        )
    if name is not None and path.suffix.lower() != ".npy":
        raise UserError(
            f"{path} contains the names of its arrays; leave out {name}= before it"
        )
    try:
        open_file(path).close()
        found = read(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} could not be read ({error.strerror or error}); fix it"
        ) from error
    except Exception as error:  # libraries raise many kinds of errors for damaged files
        raise UserError(
            f"{path} is damaged or not a {path.suffix} file ({error}); write it again"
        ) from error
    if path.suffix.lower() == ".npy":
        if name is None:
            (name,) = [n for n in NAMES if path.stem.endswith(n)] or [None]
        if name is None:
            raise UserError(
                f"{path} needs the name of its array: let the file name end in one of "
                f"{', '.join(NAMES)}, or give features={path}"
            )
        found = {name: found[""]}
    for key, column in found.items():
        if column.dtype.hasobject:
            raise UserError(
                f"{key} in {path} contains Python objects, which are not read; save "
                "numbers, or text of a fixed length"
            )
        if len(column.shape) == 0:
            raise UserError(
                f"{key} in {path} must have one row for each example, got one number"
            )
    return {key: column for key, column in found.items() if key in NAMES}


def _read_npy(path: Path) -> dict[str, Column]:
    try:
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    except ValueError as error:
        if "mmap" not in str(error) and "empty" not in str(error):
            raise
        return {"": np.load(path, allow_pickle=False)}  # an empty array


def _read_npz(path: Path) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in NAMES:
                continue
            with archive.open(member) as stream:
                shape, fortran, dtype = _header(stream)
                if dtype.hasobject:
                    raise ValueError(f"{name} contains Python objects")
                if member.compress_type != zipfile.ZIP_STORED or not np.prod(shape):
                    if takes_too_much(shape, dtype):
                        raise UserError(
                            f"{name} in {path} is compressed and too large to be read "
                            "whole; save it with numpy.savez or numpy.save"
                        )
                    with archive.open(member) as whole:
                        columns[name] = np.lib.format.read_array(
                            whole, allow_pickle=False
                        )
                    continue
                inside = stream.tell()
            # The bytes of the member follow its local header: 30 bytes and two strings,
            # whose lengths are at offsets 26 and 28.
            file.seek(member.header_offset + 26)
            lengths = file.read(4)
            start = member.header_offset + 30 + inside
            start += int.from_bytes(lengths[:2], "little")
            start += int.from_bytes(lengths[2:], "little")
            columns[name] = np.memmap(
                path, dtype, "r", start, shape, "F" if fortran else "C"
            )
    return columns


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _read_safetensors(path: Path) -> dict[str, Column]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise _needs("safetensors", path) from error
    file = safe_open(os.fspath(path), framework="numpy")
    return {name: _Tensor(file.get_slice(name)) for name in file.keys()}


class _Tensor:
    """An array in a safetensors file."""

    def __init__(self, part: Any):
        self._part, self.shape = part, tuple(part.get_shape())
        if not self.shape:
            raise ValueError("an array has no rows")
        self.dtype = np.asarray(part[:0]).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._part[rows]


def _read_parquet(path: Path) -> dict[str, Column]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise _needs("pyarrow", path) from error
    file = pyarrow.parquet.ParquetFile(path, memory_map=True)
    return {n: _ParquetColumn(file, n) for n in file.schema_arrow.names if n in NAMES}


class _ParquetColumn:
    """A column of a Parquet file: numbers, text, or lists of the same length."""

    def __init__(self, file: Any, name: str):
        self._file, self._name = file, name
        groups = range(file.num_row_groups)
        sizes = [file.metadata.row_group(g).num_rows for g in groups]
        self._starts = np.cumsum([0, *sizes])
        self._cached: tuple[int, np.ndarray] | None = None
        if not self._starts[-1]:
            raise ValueError("it has no row")
        first = self._group(0)
        self.shape = (int(self._starts[-1]), *first.shape[1:])
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        parts = [np.zeros((0, *self.shape[1:]), self.dtype)]
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for group in range(first, len(self._starts) - 1):
            at = int(self._starts[group])
            if at >= stop:
                break
            parts.append(self._group(group)[max(0, start - at) : stop - at])
        return np.concatenate(parts)

    def _group(self, group: int) -> np.ndarray:
        if self._cached is None or self._cached[0] != group:
            try:
                column = self._file.read_row_group(group, [self._name]).column(0)
                rows = self._to_numpy(column.combine_chunks())
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
        if array.null_count:
            raise UserError(f"the column {self._name} has empty cells; fill them")
        if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
            found = array.to_numpy(zero_copy_only=False)
            return found.astype(str) if found.dtype.hasobject else found
        flat = array.flatten()
        if flat.null_count or len(flat) % len(array):
            raise UserError(
                f"the column {self._name} must contain lists of the same length"
            )
        if hasattr(array, "value_lengths") and len(set(array.value_lengths())) > 1:
            raise UserError(
                f"the column {self._name} must contain lists of the same length"
            )
        return flat.to_numpy(zero_copy_only=False).reshape(len(array), -1)


def _needs(package: str, path: Path) -> UserError:
    return UserError(f"{path} needs {package}; run pip install 'fkjax[arrays]'")


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def as_table(given: Any, *, needed: Iterable[str], what: str) -> Table:
    """Checks arrays, or reads them from files.

    Args:
        given: mapping of arrays, or paths as in `read_columns`.
        needed: names of the arrays that are required.
        what: name of the table in messages, such as "pool".

    Returns:
        The arrays with names in `NAMES`. The ids are the array `ids`, or positions.

    Raises:
        UserError: if an array is missing, arrays differ in length, the ids are not one
            for each example, or a file is invalid (see `read_columns`).
    """
    columns = given if isinstance(given, Mapping) else read_columns(given)
    for name in needed:
        if name not in columns:
            raise UserError(
                f"the {what} must have {name}, got "
                f"{', '.join(map(str, columns)) or 'no array'}"
            )
    columns = {name: _array(columns[name]) for name in NAMES if name in columns}
    for name, column in columns.items():
        if len(column.shape) == 0:
            raise UserError(
                f"{name} of the {what} must have one row for each example, got one "
                "number"
            )
    num = _common_length(columns, f"the arrays of the {what}")
    if "ids" not in columns:
        return Table(columns, range(num))
    ids = np.asarray(columns["ids"][:])
    if ids.ndim > 1:
        raise UserError(
            f"ids of the {what} must be one for each example, got shape {ids.shape}"
        )
    return Table(columns, ids)


def _array(given: Any) -> Column:
    """Converts arrays of other libraries, such as tensors, to NumPy arrays."""
    is_one = isinstance(given, (np.ndarray, _Tensor, _ParquetColumn))
    return given if is_one else np.asarray(given)


def _common_length(columns: Columns, which: str) -> int:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise UserError(f"{which} must have the same length, got {shown}")
    return next(iter(lengths.values()))
