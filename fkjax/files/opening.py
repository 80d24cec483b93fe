"""Files that others wrote: opened without waiting, read no further than they may be."""

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from fkjax.base import UserError

MAX_BYTES = 4 << 30
"""The largest array that fkjax takes."""

_CHUNK = 1 << 20  # so that what is declared takes memory only as far as it is there


class Readable(Protocol):
    """What `read_into` needs of a file."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; fewer than `size` at the end, but never none before it."""
        ...


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a file to read its bytes.

    Raises:
        OSError: if it cannot be opened, or is no regular file: a pipe may be waited for
            without end, and a device may have none.
    """
    # Else the opening of a pipe would wait for its writer.
    flags = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no regular file")
    return file


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Reads a whole file.

    Args:
        path: the file.
        limit: the most bytes that it may have.

    Raises:
        UserError: if it cannot be read, or has more bytes.
    """
    with explained("read", path), open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(
            f"{path} has more than the {limit} bytes that are read: split it"
        )
    return data


def read_if_exists(path: Path, limit: int = MAX_BYTES) -> bytes | None:
    """Reads a whole file, as `read_bytes` does; None if there is no such file."""
    return read_bytes(path, limit) if exists(path) else None


def exists(path: Path) -> bool:
    """Returns whether there is a file or a folder.

    Raises:
        UserError: if its folder cannot be read.
    """
    with explained("read", path):
        return path.exists()


def takes_too_much(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Says whether an array would exceed `MAX_BYTES`, or be no array for NumPy."""
    # NumPy multiplies what is not 0 even if something is.
    return math.prod(n or 1 for n in shape) * dtype.itemsize > MAX_BYTES


def read_into(file: Readable, array: np.ndarray) -> int:
    """Fills an array with the bytes of a file.

    Args:
        file: where to read on.
        array: what to fill. Shape [n], contiguous.

    Returns:
        How many bytes there were; fewer than the array's if the file ended.
    """
    # NumPy's types do not say that an array is a buffer, which it is.
    view: Any = memoryview(array.view(np.uint8))  # type: ignore[arg-type]
    done = 0
    while chunk := file.read(min(_CHUNK, len(view) - done)):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return done


@contextlib.contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a UserError; for the modules of `fkjax.files` alone."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a ValueError: of a NUL in the path
        what = getattr(error, "strerror", None) or error
        raise UserError(
            f"Could not {doing} {path}: {what}; free some space, mend the permissions "
            "or choose another folder."
        ) from error
