"""Folders: made, locked, listed and cleared."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fkjax.base import UserError
from fkjax.files.opening import explained
from fkjax.files.writing import is_leftover


def make_folder(path: Path) -> None:
    """Makes a folder in a folder that exists; does nothing if it exists.

    Raises:
        UserError: if it cannot be made.
    """
    with explained("make the folder", path):
        path.mkdir(exist_ok=True)


def make_output_folder(path: Path) -> None:
    """Makes an empty folder, with its parents, that can be written to.

    Raises:
        UserError: if something is already there, or it cannot be written.
    """
    with explained("create the output folder", path):
        if path.is_dir() and not all(map(is_leftover, path.iterdir())):
            raise UserError(
                "The output folder must be new, empty or of an earlier run, but "
                f"{path} holds other files: choose another, or move them away."
            )
        if path.exists() and not path.is_dir():
            raise UserError(
                f"The output folder must be a folder, but {path} is a file: "
                "choose another path."
            )
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes from a folder; the lock ends with the process.

    What a killed process left of `replace_file` in the folder is removed.

    Raises:
        UserError: if another process has the lock.
    """
    with explained("lock", path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"Another process is at work in {path}: wait for it, or choose "
            "another folder."
        ) from error
    try:
        for leftover in filter(is_leftover, path.iterdir()):
            leftover.unlink()
        yield
    finally:
        os.close(descriptor)


def clear(path: Path, *names: str) -> None:
    """Removes some files and folders of a folder, in order, if they exist.

    Raises:
        UserError: if a file cannot be removed.
    """
    with explained("clear", path):
        for name in names:
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                (path / name).unlink(missing_ok=True)


def list_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, int]:
    """Finds the files with some suffixes in a folder and all folders in it.

    Names that begin with a dot are left out. Links are followed within the folder.

    Args:
        folder: the folder.
        suffixes: endings of the names, in lower case.

    Returns:
        The sizes in bytes, by the paths in the folder.

    Raises:
        UserError: if a folder cannot be read, or a link or a file cannot be used.
    """
    found: dict[str, int] = {}
    with explained("read", folder):
        home = os.path.realpath(folder, strict=True)
        # Each folder with its real path and those above it: a link may lead to one.
        left: list[tuple[str, str, tuple[str, ...]]] = [("", home, (home,))]
        while left:
            inside, real, above = left.pop()
            with os.scandir(real) as entries:
                seen = [entry for entry in entries if not entry.name.startswith(".")]
            for entry in seen:
                name = f"{inside}{entry.name}"
                at = os.path.join(real, entry.name)
                if entry.is_symlink():
                    at = _within(entry.path, home)
                if entry.is_dir():
                    if at in above:
                        raise UserError(
                            f"{entry.path} is a link to a folder that it is in: "
                            "remove it"
                        )
                    left.append((f"{name}/", at, (*above, at)))
                elif name.lower().endswith(suffixes):
                    if not entry.is_file():
                        raise UserError(f"{entry.path} is no regular file: remove it")
                    found[name] = entry.stat().st_size
    return found


def _within(link: str, home: str) -> str:
    """Where a link leads to.

    Raises:
        UserError: if that is not in the folder.
    """
    with explained("follow the link", Path(link)):
        real = os.path.realpath(link, strict=True)
    if os.path.commonpath([real, home]) != home:
        raise UserError(
            f"{link} is a link that leads out of {home}, to {real}; put there what it "
            "leads to, or remove it"
        )
    return real
