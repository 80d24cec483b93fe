"""MATLAB 5 files, the format in which SVHN is published: their uint8s and doubles.

The format is The MathWorks' "MAT-File Format": elements, each a tag, which says the
type and the number of its bytes, and then these. It is read here because SciPy 1.17's
compiled reader ends the whole process at some damaged files.
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
# A matrix is stored in any type that holds its numbers, and is small.
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
    """What is wrong with a file, in a few words."""


def read_mat(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads variables of a little-endian MATLAB 5 file.

    No more is read or decompressed than the variables' sizes say, and nothing after
    the last of them.

    Args:
        path: the file.
        names: which variables; the first of each name counts.

    Returns:
        Those of them that are there, as uint8 or float64 arrays of MATLAB's shape.

    Raises:
        OSError, zlib.error, MemoryError: if the file cannot be read.
        MatError: if it is no such file, or one of them is no array of uint8s or of
            doubles, real and dense, that fits in `MAX_BYTES`.
    """
    found: dict[str, np.ndarray] = {}
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(128)
        if header[124:] != b"\x00\x01IM":
            raise MatError("its header is of another format")
        while len(found) < len(names) and file.tell() < size:
            kind, num_bytes = struct.unpack("<2I", _exactly(file, 8))
            end = file.tell() + num_bytes
            if kind == _MATRIX:
                _read_matrix(file, names, found)
            elif kind == _COMPRESSED:
                stream = _Inflated(file, num_bytes)
                if struct.unpack("<2I", _exactly(stream, 8))[0] != _MATRIX:
                    raise MatError("what is compressed is no variable")
                if _read_matrix(stream, names, found):
                    stream.check_end()
            else:
                raise MatError(f"an element has the type {kind}")
            file.seek(end)
    return found


def _read_matrix(
    stream: Readable, names: Collection[str], found: dict[str, np.ndarray]
) -> bool:
    """Reads a variable if it is wanted; says whether it was."""
    head, dims = _short(stream, most=8), _short(stream, most=4 * _MOST_AXES)
    if len(head) != 8 or len(dims) % 4:
        raise MatError("a variable's flags or sizes are cut short")
    flags, _ = struct.unpack("<2I", head)
    name = _short(stream, most=_LONGEST_NAME).decode("latin-1")
    if name not in names or name in found:
        return False
    dtype = _CLASSES.get(flags & 0xFF)
    if dtype is None or flags & _IS_COMPLEX:
        raise MatError(f"{name} is no real array of uint8 or double")
    shape = tuple(np.frombuffer(dims, "<i4").tolist())
    if min(shape, default=-1) < 0 or takes_too_much(shape, dtype):
        raise MatError(
            f"{name} has the shape {shape}, which is none or takes more than the "
            f"{MAX_BYTES} bytes that fkjax takes"
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
    """The type and the number of bytes of an element, and a tiny one's own 4 bytes."""
    head = _exactly(stream, 8)
    kind, num_bytes = struct.unpack("<2I", head)
    if kind >> 16:  # the number of bytes is there: they follow in the tag itself
        kind, num_bytes = kind & 0xFFFF, kind >> 16
        if num_bytes > 4:
            raise MatError(f"an element of 4 bytes declares {num_bytes}")
        return kind, num_bytes, head[4:]
    return kind, num_bytes, b""


def _short(stream: Readable, *, most: int) -> bytes:
    """An element of few bytes, which is padded to a multiple of 8."""
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
    """A compressed element as a file, inflated no further than it is read."""

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
        """Reads on past the padding, where zlib's checksum is."""
        self.read(8)
        if not self._zlib.eof:
            raise MatError("a variable does not end where it should")
