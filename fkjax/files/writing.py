"""Files that are replaced as a whole, and only those that fkjax wrote."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fkjax.base import UserError
from fkjax.files.opening import explained, open_file

_HEAD = 1000  # bytes within which a mark stands


def check_replaceable(path: Path, mark: bytes, *, flag: str, overwrite: bool) -> None:
    """Refuses, before anything is computed, what cannot or must not be written.

    Args:
        path: what is to be written.
        mark: stands at the beginning of each file that may be replaced.
        flag: that named the path.
        overwrite: replace other files, too.

    Raises:
        UserError: if it is in no folder, is a folder, or is another file.
    """
    if not path.parent.is_dir():
        raise UserError(
            f"{flag} {path} must be in a folder that exists, but {path.parent} is "
            "none: make it first."
        )
    if path.is_dir():
        raise UserError(
            f"{flag} must be a file, but {path} is a folder: name a file in it."
        )
    if not path.exists() or overwrite:
        return
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(
            f"Could not read {path} to see whether it may be replaced: "
            f"{error.strerror or error}; choose another {flag}."
        ) from error
    if mark not in head:
        raise UserError(
            f"The file {path} was not made by this command and is kept: choose "
            f"another {flag}, or give --overwrite to replace it."
        )


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all.

    Args:
        path: the file, which may exist.
        data: all that it is to hold.

    Raises:
        UserError: if it cannot be written.
    """
    with explained("write", path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Turns arrays, tuples and paths into what JSON has; NaN and inf into None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def encoded(text: str) -> bytes:
    """UTF-8; of an undecodable file name, the escapes that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def is_leftover(path: Path) -> bool:
    """Whether `replace_file` was killed before it could remove this."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None
