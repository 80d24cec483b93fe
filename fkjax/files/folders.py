"""Creating, locking, listing and clearing folders."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
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


_SHOWN = 20  # links in one message


class Links:
    """The links found in folders, of which those that cannot be used are collected."""

    def __init__(self, homes: Sequence[str], *, within: str, follow_links: bool):
        """Starts with no links.

        Args:
            homes: real paths of the folders in which links must stay.
            within: name of these folders, for messages.
            follow_links: whether links may lead out of these folders.
        """
        self._homes, self._within, self._may_leave = homes, within, follow_links
        self._broken, self._outside = dict[str, list[str]](), list[str]()

    def target(self, path: str) -> str | None:
        """Returns the real path of a file or folder; None if it cannot be used."""
        try:
            real = os.path.realpath(path, strict=True)
        except OSError as error:
            self._broken.setdefault(error.strerror or str(error), []).append(path)
            return None
        homes = self._homes
        if self._may_leave or any(os.path.commonpath([real, h]) == h for h in homes):
            return real
        self._outside.append(f"{path}, to {real}")
        return None

    def raise_any(self) -> None:
        """Raises an error if a link is broken or points out of the folders.

        Raises:
            UserError: if there are such links; the message names up to 20 of a kind.
        """
        found = [
            f"{named(sorted(paths))} could not be read ({why}): fix or remove "
            f"{'it' if len(paths) == 1 else 'them'}"
            for why, paths in self._broken.items()
        ]
        if paths := sorted(self._outside):
            it = "it by a copy" if len(paths) == 1 else "them by copies"
            links = "a link points" if len(paths) == 1 else f"{len(paths)} links point"
            # The path of a link and the path that it leads to are one item.
            found.append(
                f"{links} out of {self._within}: {named(paths, separator='; ')}: "
                f"replace {it}, or add --follow-links (follow_links=True in Python)"
            )
        if found:
            raise UserError("; ".join(found))


def named(names: Sequence[str], *, separator: str = ", ") -> str:
    """Returns the first 20 names, and the number of the others, for a message."""
    more = len(names) - _SHOWN
    return separator.join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def list_files(
    folder: Path,
    suffixes: tuple[str, ...],
    others: list[str] | None = None,
    *,
    follow_links: bool = False,
) -> dict[str, int]:
    """Lists the files with given suffixes in a folder and its subfolders.

    Hidden files and folders are left out. Links within the folder are followed.

    Args:
        folder: folder to search.
        suffixes: suffixes of the names, in lower case.
        others: list to which the paths in the folder of all other files are added.
        follow_links: whether links that lead out of the folder are followed, too.

    Returns:
        The size of each file in bytes, by its path in the folder.

    Raises:
        UserError: if a folder cannot be read, or a link or a file cannot be used.
    """
    found: dict[str, int] = {}
    with explained("read", folder):
        home = os.path.realpath(folder, strict=True)
        links = Links([home], within=home, follow_links=follow_links)
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
                    target = links.target(entry.path)
                    if target is None:
                        continue
                    at = target
                if entry.is_dir():
                    if at in above:
                        raise UserError(
                            f"{folder / name} is a link to a folder that contains it: "
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
        links.raise_any()
    return found
