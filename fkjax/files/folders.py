"""Creating, locking, listing and clearing folders."""

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
    """Creates a folder in an existing folder; does nothing if it exists.

    Raises:
        UserError: if the folder cannot be created.
    """
    with explained("create the folder", path):
        path.mkdir(exist_ok=True)


def make_output_folder(path: Path) -> None:
    """Creates an empty folder that can be written to, and its parents.

    Raises:
        UserError: if the path exists and is not an empty folder, or the folder cannot
            be written to.
    """
    with explained("create the output folder", path):
        if path.is_dir() and not all(map(is_leftover, path.iterdir())):
            raise UserError(
                "the output folder must be new, empty or of an earlier run, but "
                f"{path} contains other files: choose another, or move them away"
            )
        if path.exists() and not path.is_dir():
            raise UserError(
                f"the output folder must be a folder, but {path} is a file: choose "
                "another path"
            )
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a folder against other processes, at most until this process ends.

    Temporary files that a killed process left in the folder are removed.

    Raises:
        UserError: if another process has locked the folder.
    """
    with explained("lock", path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"another process uses {path}: wait for it, or choose another folder"
        ) from error
    try:
        for leftover in filter(is_leftover, path.iterdir()):
            leftover.unlink()
        yield
    finally:
        os.close(descriptor)


def clear(path: Path, *names: str) -> None:
    """Removes files and folders in a folder, in order, if they exist.

    Args:
        path: path of the folder.
        *names: names of the files and folders to remove.

    Raises:
        UserError: if a file cannot be removed.
    """
    with explained("clear", path):
        for name in names:
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                (path / name).unlink(missing_ok=True)


_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden, or made by a file manager."""
    return name.startswith(".") or name.lower() in _CLUTTER


def list_files(
    folder: Path, suffixes: tuple[str, ...], others: list[str] | None = None
) -> dict[str, int]:
    """Lists the files with given suffixes in a folder and its subfolders.

    Hidden files and folders are left out. Links within the folder are followed.

    Args:
        folder: folder to search.
        suffixes: suffixes of the names, in lower case.
        others: list to which the paths in the folder of all other files are added.

    Returns:
        The size of each file in bytes, by its path in the folder.

    Raises:
        UserError: if a folder cannot be read, or a link or a file cannot be used.
    """
    found: dict[str, int] = {}
    with explained("read", folder):
        home = os.path.realpath(folder, strict=True)
        # Each folder with its real path and those above it, which a link may lead to.
        left: list[tuple[str, str, tuple[str, ...]]] = [("", home, (home,))]
        while left:
            inside, real, above = left.pop()
            with os.scandir(real) as entries:
                seen = [entry for entry in entries if not is_hidden(entry.name)]
            for entry in seen:
                name = f"{inside}{entry.name}"
                at = os.path.join(real, entry.name)
                if entry.is_symlink():
                    at = _within(entry.path, home)
                if entry.is_dir():
                    if at in above:
                        raise UserError(
                            f"{entry.path} is a link to a folder that contains it: "
                            "remove it"
                        )
                    left.append((f"{name}/", at, (*above, at)))
                elif name.lower().endswith(suffixes):
                    if not entry.is_file():
                        raise UserError(
                            f"{entry.path} is not a regular file: remove it"
                        )
                    found[name] = entry.stat().st_size
                elif others is not None:
                    others.append(name)
    return found


def _within(link: str, home: str) -> str:
    """Returns the path that a link leads to.

    Raises:
        UserError: if the path is not in the folder `home`.
    """
    with explained("follow the link", Path(link)):
        real = os.path.realpath(link, strict=True)
    if os.path.commonpath([real, home]) != home:
        raise UserError(
            f"{link} is a link that leads out of {home}, to {real}: replace it by a "
            "copy, or remove it"
        )
    return real
