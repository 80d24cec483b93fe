"""Reading of columns from .npy, .npz, .safetensors and .parquet files, or from arrays.

Rows are read when they are used. Arrays in a .npy file, and in a .npz file written by
`numpy.savez`, are mapped into memory. Compressed arrays in a .npz file are read whole.
"""

import contextlib
import functools
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fkjax.base import UserError
from fkjax.data.column_types import OF_TEXT, as_array, cure, plain
from fkjax.data.columns import Columns, Table
from fkjax.data.parquet import ParquetColumn, parquet_file
from fkjax.files.opening import open_file, takes_too_much

NAMES = (
    *("features", "logits", "log_probs", "probabilities"),
    *("images", "labels", "ids"),
)


Paths = str | os.PathLike | Sequence[str | os.PathLike]
"""Paths of files of arrays, as in `read_columns`."""

Readers = dict[str, Callable[[], Any]]
"""Functions that open the arrays of files, by name."""


def read_columns(paths: Paths) -> Columns:
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
    columns = {name: read() for name, read in _find(paths).items()}
    _common_length(columns, f"the arrays of {_shown(paths)}")
    return columns


def _find(paths: Paths) -> Readers:
    """Finds the arrays of files whose names are in `NAMES`, without opening them."""
    arrays: Readers = {}
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name, path = _named(str(given))
        for key, read in _find_in(name, Path(path)).items():
            if key in arrays:
                raise UserError(
                    f"{path} contains {key}, but a previous file does, too; leave out "
                    "one of them"
                )
            arrays[key] = read
    if not arrays:
        raise UserError(
            f"{_shown(paths)} contain none of the arrays {', '.join(NAMES)}; give the "
            "arrays these names"
        )
    return arrays


def _shown(paths: Paths) -> str:
    is_one = isinstance(paths, (str, os.PathLike))
    return ", ".join(map(str, [paths] if is_one else paths))


def _named(path: str) -> tuple[str | None, str]:
    name, equals, rest = path.partition("=")
    return (name, rest) if equals and name in NAMES else (None, path)


def _find_in(name: str | None, path: Path) -> Readers:
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
    with _plain_errors(path):
        open_file(path).close()
        found = read(path)
    if path.suffix.lower() == ".npy":
        if name is None:
            (name,) = [n for n in NAMES if path.stem.endswith(n)] or [None]
        if name is None:
            raise UserError(
                f"{path} needs the name of its array: let the file name end in one of "
                f"{', '.join(NAMES)}, or give features={path}"
            )
        found = {name: found[""]}
    return {
        key: functools.partial(_opened, path, key, read)
        for key, read in found.items()
        if key in NAMES
    }


def _opened(path: Path, name: str, read: Callable[[], Any]) -> Any:
    with _plain_errors(path):
        column = read()
    if isinstance(column, np.dtype):
        what = "an array of Python objects, which are not read"
        if not column.hasobject:
            what = "of a type that NumPy's files have no name for, such as float8"
        raise UserError(f"{name} in {path} is {what}; save {cure(name)}")
    if len(column.shape) == 0:
        raise UserError(
            f"{name} in {path} must have one row for each example, got one number"
        )
    if column.dtype == "V2":  # bfloat16 in NumPy's files, as in `jax.numpy.load`
        return column.view(jnp.bfloat16)
    return column


@contextlib.contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(
            f"{path} could not be read ({error.strerror or error}); fix it"
        ) from error
    except Exception as error:  # libraries raise many kinds of errors for damaged files
        raise UserError(
            f"{path} is damaged or not a {path.suffix} file ({error}); write it again"
        ) from error


def _find_npy(path: Path) -> Readers:
    return {"": functools.partial(_read_npy, path)}


def _read_npy(path: Path) -> Any:
    with open_file(path) as file:
        dtype = _header(file)[2]
    if dtype.hasobject or dtype == _FLOAT8_LOST:
        return dtype
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "mmap" not in str(error) and "empty" not in str(error):
            raise
        return np.load(path, allow_pickle=False)  # an empty array


def _find_npz(path: Path) -> Readers:
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        return {
            member.filename.removesuffix(".npy"): functools.partial(
                _read_member, path, member
            )
            for member in archive.infolist()
        }


def _read_member(path: Path, member: zipfile.ZipInfo) -> Any:
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        with archive.open(member) as stream:
            shape, fortran, dtype = _header(stream)
            if dtype.hasobject or dtype == _FLOAT8_LOST:
                return dtype
            if member.compress_type != zipfile.ZIP_STORED or not np.prod(shape):
                if takes_too_much(shape, dtype):
                    raise UserError(
                        f"{member.filename.removesuffix('.npy')} in {path} is "
                        "compressed and too large to be read whole; save it with "
                        "numpy.savez or numpy.save"
                    )
                with archive.open(member) as whole:
                    return np.lib.format.read_array(whole, allow_pickle=False)
            inside = stream.tell()
        # The bytes of the member follow its local header: 30 bytes and two strings,
        # whose lengths are at offsets 26 and 28.
        file.seek(member.header_offset + 26)
        lengths = file.read(4)
    start = member.header_offset + 30 + inside
    start += int.from_bytes(lengths[:2], "little")
    start += int.from_bytes(lengths[2:], "little")
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


_FLOAT8_LOST = np.dtype("V1")


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        return np.lib.format.read_array_header_2_0(stream)
    except ValueError as error:
        if "'<f1'" in str(error):  # float8_e5m2, which NumPy writes but does not read
            return (), False, _FLOAT8_LOST
        raise


def _find_safetensors(path: Path) -> Readers:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise _needs("safetensors", path) from error
    file = safe_open(os.fspath(path), framework="numpy")
    return {name: functools.partial(_tensor, path, file, name) for name in file.keys()}


_FLOAT8 = {"F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2}


def _tensor(path: Path, file: Any, name: str) -> Any:
    part = file.get_slice(name)
    shape, dtype = part.get_shape(), _FLOAT8.get(part.get_dtype())
    if 0 in shape or not shape:
        return np.zeros(shape, np.float32)  # the library cannot slice it
    if dtype is None:
        return _Tensor(part)
    # The library reads these types for PyTorch only. The bytes of the arrays follow the
    # length of the header, in 8 bytes, and the header, in JSON.
    with open_file(path) as opened:
        length = int.from_bytes(opened.read(8), "little")
        start = json.loads(opened.read(length))[name]["data_offsets"][0]
    return np.memmap(path, dtype, "r", 8 + length + start, tuple(shape))


class _Tensor:
    """An array in a safetensors file."""

    def __init__(self, part: Any):
        self._part, self.shape = part, tuple(part.get_shape())
        self.dtype = np.asarray(part[:0]).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))  # the library allows none beyond N
        return self._part[start:stop]


def _find_parquet(path: Path) -> Readers:
    try:
        file = parquet_file(path)
    except ImportError as error:
        raise _needs("pyarrow", path) from error
    return {
        name: functools.partial(ParquetColumn, file, name)
        for name in file.schema_arrow.names
    }


def _needs(package: str, path: Path) -> UserError:
    return UserError(f"{path} needs {package}; run pip install 'fkjax[arrays]'")


_READERS: dict[str, Callable[[Path], Readers]] = {
    ".npz": _find_npz,
    ".npy": _find_npy,
    ".safetensors": _find_safetensors,
    ".parquet": _find_parquet,
}


def as_table(
    given: Any, *, needed: Iterable[str], what: str, any_of: Sequence[str] = ()
) -> Table:
    """Checks arrays, or reads them from files.

    Args:
        given: mapping of arrays, or paths as in `read_columns`.
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
    needed, is_given = tuple(needed), isinstance(given, Mapping)
    found: Mapping[str, Any] = given if is_given else _find(_paths(given, what))
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
            columns[name] = plain(
                column if is_read else np.asarray(column[:]), name, what
            )
    if "ids" not in columns:
        return Table(columns, range(num))
    ids = columns["ids"]
    if ids.ndim > 1:
        raise UserError(
            f"ids of the {what} must be one for each example, got shape {ids.shape}"
        )
    return Table(columns, ids)


def _converted(arrays: Mapping[str, Any], name: str, what: str) -> Any:
    try:
        given = arrays[name]  # of an opened .npz file, the array is read here
        if isinstance(given, (_Tensor, ParquetColumn)):
            return given
        if np.ma.is_masked(given):
            raise UserError(f"{name} of the {what} has masked values; fill them")
        return given if isinstance(given, np.ndarray) else as_array(given)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        fix = cure(name) if "Object arrays" in str(error) else "a NumPy array"
        raise UserError(
            f"{name} of the {what} could not be converted to an array ({error}); give "
            f"{fix}"
        ) from error


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
    return next(iter(lengths.values()))
