"""A reader of MATLAB 5 files, the format in which SVHN is published.

Only arrays of uint8 and double are read. The format is defined in "MAT-File Format" by
The MathWorks: a file consists of elements, each a tag with the type and the number of
bytes, followed by the bytes. SciPy is not used because the compiled reader of SciPy
1.17 crashes the process for some damaged files.
"""

import math
import os
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from fkjax.files.opening import (
    MAX_BYTES,
    Readable,
    open_file,
    read_into,
    takes_too_much,
)

_MATRIX, _COMPRESSED = 14, 15
_CLASSES = {6: np.dtype("<f8"), 9: np.dtype("u1")}
# A matrix can be stored in any smaller type that can represent its numbers.
_STORED = {
    number: np.dtype(f"<{code}")
    for number, code in zip(
        (1, 2, 3, 4, 5, 6, 7, 9, 12, 13),
        "i1 u1 i2 u2 i4 u4 f4 f8 i8 u8".split(),
        strict=True,
    )
}
_IS_COMPLEX = 0x0800
_MOST_AXES, _LONGEST_NAME = 32, 256


class MatError(ValueError):
    """Raised if a file is damaged or not supported; the message is a short phrase."""


def read_mat(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads variables of a little-endian MATLAB 5 file.

    Only the bytes that the sizes of the variables declare are read or decompressed, and
    none after the last variable.

    Args:
        path: the file.
        names: names of the variables. If a name is repeated, the first variable is
            read.

    Returns:
        The variables that the file contains, as uint8 or float64 arrays of the shape in
        MATLAB.

    Raises:
        OSError, zlib.error, MemoryError: if the file cannot be read.
        MatError: if it is not such a file, or a variable is not a real dense array of
            uint8 or double that fits in `MAX_BYTES`.
    """
    found: dict[str, np.ndarray] = {}
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(128)
        if header[124:] != b"\x00\x01IM":
            raise MatError("its header has another format")
        while len(found) < len(names) and file.tell() < size:
            kind, num_bytes = struct.unpack("<2I", _exactly(file, 8))
            end = file.tell() + num_bytes
            if kind == _MATRIX:
                _read_matrix(file, names, found)
            elif kind == _COMPRESSED:
                stream = _Inflated(file, num_bytes)
                if struct.unpack("<2I", _exactly(stream, 8))[0] != _MATRIX:
                    raise MatError("a compressed element is not a variable")
                if _read_matrix(stream, names, found):
                    stream.check_end()
            else:
                raise MatError(f"an element has the type {kind}")
            file.seek(end)
    return found


def _read_matrix(
    stream: Readable, names: Collection[str], found: dict[str, np.ndarray]
) -> bool:
    """Reads a variable if its name is in `names`; returns whether it was read."""
    head, dims = _short(stream, most=8), _short(stream, most=4 * _MOST_AXES)
    if len(head) != 8 or len(dims) % 4:
        raise MatError("the flags or sizes of a variable are truncated")
    flags, _ = struct.unpack("<2I", head)
    name = _short(stream, most=_LONGEST_NAME).decode("latin-1")
    if name not in names or name in found:
        return False
    dtype = _CLASSES.get(flags & 0xFF)
    if dtype is None or flags & _IS_COMPLEX:
        raise MatError(f"{name} is not a real array of uint8 or double")
    shape = tuple(np.frombuffer(dims, "<i4").tolist())
    if min(shape, default=-1) < 0 or takes_too_much(shape, dtype):
        raise MatError(
            f"{name} has shape {shape}, which is invalid or takes more than the "
            f"maximum of {MAX_BYTES} bytes"
        )
    kind, num_bytes, rest = _tag(stream)
    stored, count = _STORED.get(kind), math.prod(shape)
    if stored is None or num_bytes != count * stored.itemsize:
        raise MatError(f"{name} has {num_bytes} bytes of type {kind} in shape {shape}")
    array = np.empty(count, stored)
    if rest:
        array[:] = np.frombuffer(rest[:num_bytes], stored)
    elif (has := read_into(stream, array)) < num_bytes:
        raise MatError(f"{name} has {has} of {num_bytes} bytes")
    found[name] = array.astype(dtype, copy=False).reshape(shape, order="F")
    return True


def _tag(stream: Readable) -> tuple[int, int, bytes]:
    """Reads the tag of an element.

    Returns:
        The type and the number of bytes of the element, and the 4 bytes in the tag if
        the element is small.
    """
    head = _exactly(stream, 8)
    kind, num_bytes = struct.unpack("<2I", head)
    if kind >> 16:  # a small element: its size is here, and its bytes are in the tag
        kind, num_bytes = kind & 0xFFFF, kind >> 16
        if num_bytes > 4:
            raise MatError(f"an element of 4 bytes declares {num_bytes}")
        return kind, num_bytes, head[4:]
    return kind, num_bytes, b""


def _short(stream: Readable, *, most: int) -> bytes:
    """Reads a short element, which is padded to a multiple of 8 bytes."""
    _, num_bytes, rest = _tag(stream)
    if num_bytes > most:
        raise MatError(f"an element of at most {most} bytes declares {num_bytes}")
    return (rest or _exactly(stream, -(-num_bytes // 8) * 8))[:num_bytes]


def _exactly(stream: Readable, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise MatError("it ends too early")
    return data


class _Inflated:
    """A compressed element as a file, decompressed only as far as it is read."""

    def __init__(self, file: IO[bytes], num_bytes: int):
        self._file, self._left = file, num_bytes
        self._zlib, self._waiting = zlib.decompressobj(), b""

    def read(self, size: int, /) -> bytes:
        parts = []
        while size and not self._zlib.eof:
            if not self._waiting:
                self._waiting = self._file.read(min(self._left, 1 << 16))
                self._left -= len(self._waiting)
                if not self._waiting:
                    break
            data = self._zlib.decompress(self._waiting, size)
            self._waiting = self._zlib.unconsumed_tail
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def check_end(self) -> None:
        """Reads past the padding, so that zlib verifies its checksum."""
        self.read(8)
        if not self._zlib.eof:
            raise MatError("a variable does not end where it should")
