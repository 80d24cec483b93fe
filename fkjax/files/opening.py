"""Reading of files that other programs wrote, without blocking and within limits."""

import contextlib
import hashlib
import io
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fkjax.base import UserError

MAX_BYTES = 4 << 30
"""The size of the largest array and file that fkjax reads, in bytes."""

_CHUNK = 1 << 20  # memory is only used for bytes that exist, not for declared sizes


class Readable(Protocol):
    """A file from which `read_into` can read."""

    def read(self, size: int, /) -> bytes:
        """Reads up to `size` bytes; none only at the end of the file."""
        ...


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file to read its bytes.

    Raises:
        OSError: if the file cannot be opened, or is not a regular file: reading a pipe
            may block forever, and a device may have no end.
    """
    # Without this flag, opening a pipe would wait for its writer.
    flags = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Reads a whole file.

    Args:
        path: path of the file.
        limit: largest size that is read, in bytes.

    Raises:
        UserError: if the file cannot be read or is larger.
    """
    with explained("read", path), open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(
            f"{path} has more than {limit} bytes, the largest size that is read: split "
            "it"
        )
    return data


def checksum(path: Path) -> str:
    """Computes the SHA-256 of a file.

    Raises:
        UserError: if the file cannot be read.
    """
    with explained("read", path), open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_if_exists(path: Path, limit: int = MAX_BYTES) -> bytes | None:
    """Reads a whole file, as `read_bytes` does; returns None if it does not exist."""
    return read_bytes(path, limit) if exists(path) else None


def exists(path: Path) -> bool:
    """Returns whether a file or folder exists.

    Raises:
        UserError: if its parent folder cannot be read.
    """
    with explained("read", path):
        return path.exists()


def takes_too_much(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Returns whether an array would exceed `MAX_BYTES` or the limits of NumPy."""
    # NumPy multiplies the sizes that are not 0, even if one is 0.
    return math.prod(n or 1 for n in shape) * dtype.itemsize > MAX_BYTES


def read_into(file: Readable, array: np.ndarray) -> int:
    """Fills an array with the bytes of a file.

    Args:
        file: file to read from.
        array: array to fill, contiguous. Shape [n].

    Returns:
        The number of bytes read; fewer than those of the array if the file ended.
    """
    # The types of NumPy do not declare that an array is a buffer.
    view: Any = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
    done = 0
    while chunk := file.read(min(_CHUNK, len(view) - done)):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return done


@contextlib.contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a UserError; only used in `fkjax.files`.

    Args:
        doing: verb for the message, such as "read".
        path: path of the file.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the path has a NUL
        what = getattr(error, "strerror", None) or error
        raise UserError(
            f"could not {doing} {path}: {what}; free some space, fix the permissions "
            "or choose another folder"
        ) from error
