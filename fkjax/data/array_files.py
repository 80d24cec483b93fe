"""Arrays in a file, or in a folder that Zarr wrote, by name.

Rows are read when they are used. Arrays in a .npy file, and in a .npz file written by
`numpy.savez`, are mapped into memory. Compressed arrays in a .npz file are read whole.
"""

import contextlib
import functools
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fkjax.base import UserError
from fkjax.data.arrow import column_of, table_in
from fkjax.data.column_types import cure
from fkjax.data.columns import Lazy, Sliced
from fkjax.data.parquet import ParquetColumn, parquet_file
from fkjax.files.opening import open_file, takes_too_much

NAMES = (
    *("features", "logits", "log_probs", "probabilities"),
    *("images", "labels", "ids"),
)
"""The names of the arrays that are read."""

Readers = dict[str, Callable[[], Any]]
"""Functions that open the arrays of files, by name."""

_NUMBER = re.compile(
    r"[-_.]?(part|shard|chunk|rank)?[-_.]?[0-9]+([-_.]of[-_.][0-9]+)?$"
)


def is_zarr(path: Path) -> bool:
    """Returns whether a folder is an array or a group of Zarr."""
    return path.is_dir() and any(
        (path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")
    )


def ending_of(path: Path) -> str:
    """Returns the ending of a file of arrays, in lower case; "" if it has none of them.

    >>> ending_of(Path("a.NPZ")), ending_of(Path("a.txt"))
    ('.npz', '')
    """
    ending = path.suffix.lower()
    if is_zarr(path):
        return ".zarr"
    return ending if ending in _READERS and ending != ".zarr" else ""


def arrays_in(path: Path, name: str | None = None) -> Readers:
    """Finds the arrays of a file whose names are in `NAMES`, without opening them.

    Args:
        path: path of the file.
        name: name of the array, of a file that contains one without a name. By default,
            the end of the file name, before the number of a shard.

    Raises:
        UserError: if the file cannot be read, or the array needs a name.
    """
    ending = ending_of(path)
    if not ending:
        raise UserError(
            f"{path} has none of the endings {', '.join(_READERS)}; save it in one of "
            "these formats"
        )
    with _plain_errors(path):
        if ending != ".zarr":
            open_file(path).close()
        found = _READERS[ending](path)
    if "" not in found and name is not None:
        raise UserError(
            f"{path} contains the names of its arrays; leave out {name}= before it"
        )
    if "" in found:
        stem = _NUMBER.sub("", path.stem)
        (name,) = [name] if name else [n for n in NAMES if stem.endswith(n)] or [None]
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
        raise type(error)(f"{path}: {error}") from error
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


class _Tensor(Lazy):
    """An array in a safetensors file."""

    def __init__(self, part: Any):
        self._part, self.shape = part, tuple(part.get_shape())
        self.dtype = np.asarray(part[:0]).dtype

    def _read(self, start: int, stop: int) -> np.ndarray:
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


def _find_arrow(path: Path) -> Readers:
    try:
        table = table_in(path)
    except ImportError as error:
        raise _needs("pyarrow", path) from error
    return {
        name: functools.partial(column_of, table, name) for name in table.column_names
    }


def _find_hdf5(path: Path) -> Readers:
    try:
        import h5py
    except ImportError as error:
        raise _needs("h5py", path, "hdf5") from error
    file = h5py.File(path, "r")
    # The types of h5py do not declare that a file iterates over names.
    names: list[str] = list(file)  # type: ignore[arg-type]
    return {name: functools.partial(_dataset, file, name) for name in names}


def _dataset(file: Any, name: str) -> Any:
    import h5py

    link = file.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UserError(
            f"{name} is a link to {link.filename}; give that file in its place"
        )
    if not isinstance(file[name], h5py.Dataset) or file[name].shape is None:
        raise UserError(f"{name} is not an array; write one at the top of the file")
    return Sliced(file[name])


def _find_zarr(path: Path) -> Readers:
    try:
        import zarr
    except ImportError as error:
        raise _needs("zarr", path, "zarr") from error
    found = zarr.open(os.fspath(path), mode="r")
    if isinstance(found, zarr.Array):
        return {"": functools.partial(_zarr_array, found)}
    return {
        name: functools.partial(_zarr_array, array) for name, array in found.arrays()
    }


def _zarr_array(array: Any) -> Any:
    if "pickle" in repr(array.filters).lower():  # reading would run code in the file
        raise UserError("the pickle filter is not read; write the array without it")
    return Sliced(array)


def _needs(package: str, path: Path, extra: str = "arrays") -> UserError:
    return UserError(f"{path} needs {package}; run pip install 'fkjax[{extra}]'")


_READERS: dict[str, Callable[[Path], Readers]] = {
    ".npz": _find_npz,
    ".npy": _find_npy,
    ".safetensors": _find_safetensors,
    ".parquet": _find_parquet,
    ".arrow": _find_arrow,
    ".h5": _find_hdf5,
    ".hdf5": _find_hdf5,
    ".zarr": _find_zarr,
}
