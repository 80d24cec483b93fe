"""Writing of files, which are replaced as a whole and only if fkjax wrote them."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fkjax.base import UserError
from fkjax.files.opening import explained, open_file

_HEAD = 1000  # first bytes of a file, which contain its mark


def check_replaceable(path: Path, mark: bytes, *, flag: str, overwrite: bool) -> None:
    """Checks that a file can and may be written, before anything is computed.

    Args:
        path: path of the file to write.
        mark: text at the beginning of files that may be replaced.
        flag: flag that the path was given by, for the message.
        overwrite: whether other files may be replaced, too.

    Raises:
        UserError: if the path is a folder or is not in a folder, or the file exists and
            must not be replaced.
    """
    if not path.parent.is_dir():
        raise UserError(
            f"{flag} {path} must be in an existing folder, but {path.parent} is not "
            "one: create it first"
        )
    if path.is_dir():
        raise UserError(
            f"{flag} must be a file, but {path} is a folder: give a file in it"
        )
    if not path.exists() or overwrite:
        return
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(
            f"could not read {path} to check whether it may be replaced: "
            f"{error.strerror or error}; choose another {flag}"
        ) from error
    if mark not in head:
        raise UserError(
            f"{path} was not written by this command and is kept: choose another "
            f"{flag}, or give --overwrite to replace it"
        )


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file, completely or not at all.

    Args:
        path: path of the file, which is replaced if it exists.
        data: content of the file.

    Raises:
        UserError: if the file cannot be written.
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
    """Converts arrays, tuples and paths to types of JSON; NaN and infinity to None."""
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
    """Encodes text as UTF-8; undecodable file names as escapes that JSON can read."""
    return text.encode("utf-8", "backslashreplace")


def is_leftover(path: Path) -> bool:
    """Returns whether a path is a temporary file left by a killed `replace_file`."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None
