"""Shards: several files that contain consecutive rows of the same arrays."""

import functools
import glob
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.data.array_files import NAMES, arrays_in, ending_of
from fkjax.data.arrow import NoRowError
from fkjax.data.columns import Lazy
from fkjax.data.labeled_folder import natural
from fkjax.files.folders import is_hidden
from fkjax.files.opening import read_bytes

_INDEX = ".safetensors.index.json"
_NOTES = (".json", ".md", ".txt", ".yaml", ".yml", ".crc")
_OF = re.compile(r"(.*?)([0-9]+)([-_.]of[-_.])([0-9]+)")
_CODE = re.compile(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*|[0-9]+")
_OPEN = 32  # shards of an array that are open at a time
_SHOWN = 5  # files in one message


class Given(NamedTuple):
    """Files that a path denotes.

    Attributes:
        files: paths of the files, in natural order.
        is_set: whether the path is a folder or a pattern, which denotes all of them.
    """

    files: list[Path]
    is_set: bool


def files_of(path: str) -> Given:
    """Returns the files that a path denotes.

    A path denotes a file; or, in the order of the numbers in their names, the files of
    a folder, those that match a pattern such as `pool-*.npz`, or those in an index of
    safetensors files. In a folder, hidden files, those whose names begin with an
    underscore, and notes such as README.md are ignored. Folders inside may have names
    such as `date=2026-01-01`, as Spark writes them.

    Args:
        path: path of a file, folder or index, or a pattern.

    Raises:
        UserError: if there are no files, a folder contains others, or a shard of a
            numbered set such as `pool-00001-of-00008.npz` is missing.
    """
    if path.endswith(_INDEX):
        files, is_set = _files_of_index(Path(path)), True
    elif os.path.isdir(path) and not ending_of(Path(path)):
        files, is_set = _files_of_folder(Path(path)), True
        _require_one_series(files, path)
    elif glob.has_magic(path) and not os.path.exists(path):
        matches = [Path(p) for p in glob.glob(path, recursive=True) if _counts(p)]
        folders = [p for p in matches if p.is_dir() and not ending_of(p)]
        files = [p for p in matches if p not in folders and p.suffix not in _NOTES]
        files, is_set = files + [f for d in folders for f in _files_of_folder(d)], True
    else:
        return Given([Path(path)], False)
    if not files:
        raise UserError(f"{path} denotes no file of arrays; give another path")
    files = sorted(set(files), key=lambda file: natural(str(file)))
    require_all_shards(files)
    return Given(files, is_set)


def _files_of_index(path: Path) -> list[Path]:
    try:
        places = json.loads(read_bytes(path))["weight_map"]
        names = {places[name] for name in NAMES if name in places}
        files = [path.parent / os.path.basename(name) for name in names]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is not an index of safetensors files; give the files"
        ) from error
    return files


def _files_of_folder(folder: Path) -> list[Path]:
    files: list[Path] = []
    try:
        entries = sorted(entry for entry in folder.iterdir() if _counts(entry.name))
    except OSError as error:
        raise UserError(
            f"{folder} could not be read ({error.strerror}); fix it"
        ) from error
    for entry in entries:
        key, equals, _ = entry.name.partition("=")
        if ending_of(entry):
            files.append(entry)
        elif entry.is_dir() and equals and key not in NAMES:
            files += _files_of_folder(entry)
        elif entry.is_dir():
            raise UserError(
                f"{folder} contains the folder {entry.name}, "
                + (
                    f"whose name contains {key}; write them as a column"
                    if equals
                    else "so that it can be more than one set; give one of the folders"
                )
            )
        elif entry.suffix.lower() not in _NOTES:
            raise UserError(
                f"{folder} contains {entry.name}, which is not a file of arrays; move "
                f"it away, or give a pattern such as '{folder}/*.npz'"
            )
    return files


def _counts(path: str) -> bool:
    name = os.path.basename(path.rstrip("/"))
    return not is_hidden(name) and not name.startswith("_")


def series(path: str) -> str:
    """Returns the part that the names of the shards of a set have in common.

    >>> series("pool-2.npz") == series("pool-10.npz"), series("a.npz")
    (True, 'a.npz')
    """
    return _CODE.sub("#", path)


def _require_one_series(files: Sequence[Path], folder: str) -> None:
    """Raises an error if files of a folder seem to be of different sets."""
    others = {series(_without_array(file.name)): file for file in reversed(files)}
    if len(others) > 1:
        shown = " and ".join(sorted(file.name for file in others.values())[:2])
        raise UserError(
            f"the files in {folder} have different names, such as {shown}, so that "
            f"they can be of different sets; give one file, or '{folder}/*' for all"
        )


def _without_array(name: str) -> str:
    """Removes the name of an array from the name of a .npy file."""
    return re.sub(rf"({'|'.join(NAMES)})(?=[-_.0-9]|$)", "", name)


def require_all_shards(files: Sequence[Path]) -> None:
    """Raises an error if a file of a set such as `pool-00001-of-00008.npz` is missing.

    Args:
        files: paths of the files.
    """
    sets: dict[tuple[str, ...], dict[int, Path]] = {}
    for file in files:
        if found := _OF.match(file.name):
            key = (str(file.parent), found[1], found[4])
            sets.setdefault(key, {})[int(found[2])] = file
    for (_, _, total), there in sets.items():
        first = 0 if 0 in there else 1
        missing = [i for i in range(first, first + int(total)) if i not in there]
        for number in missing[:1]:
            a_file = next(iter(there.values()))
            digits = _OF.match(a_file.name)
            assert digits is not None
            name = f"{digits[1]}{number:0{len(digits[2])}}{digits[3]}{total}"
            raise UserError(
                f"{a_file.parent / name}{a_file.suffix} is missing, and in all "
                f"{len(missing)} of {total} shards; add them, or rename the others"
            )


class Shard(NamedTuple):
    """A file that contains some rows of an array.

    Attributes:
        path: path of the file.
        name: name of the array, if the file contains one without a name.
        arrays: names of all arrays in the file.
        is_of_set: whether it is of a folder or matches a pattern.
    """

    path: Path
    name: str | None
    arrays: frozenset[str]
    is_of_set: bool


def require_shards(arrays: Mapping[str, Sequence[Shard]]) -> None:
    """Checks that the files that contain the same arrays are shards of a set.

    Args:
        arrays: the files that contain an array, in order, by its name.

    Raises:
        UserError: if a file is there twice, files contain different arrays, their names
            do not show that they are shards, a shard is missing, or their order is not
            certain.
    """
    several = {name: shards for name, shards in arrays.items() if len(shards) > 1}
    for name, shards in several.items():
        first, *others = shards
        seen = {os.path.realpath(first.path)}
        for shard in others:
            is_shard = shard.is_of_set or series(str(shard.path)) == series(
                str(first.path)
            )
            if os.path.realpath(shard.path) in seen or not is_shard:
                raise UserError(
                    f"{shard.path} contains {name}, but a previous file does, too; "
                    "leave out one of them, or give shards by a pattern such as "
                    "'pool-*.npz'"
                )
            seen.add(os.path.realpath(shard.path))
            if shard.arrays != first.arrays:
                raise UserError(
                    f"{shard.path} contains {', '.join(sorted(shard.arrays))}, but "
                    f"{first.path} contains {', '.join(sorted(first.arrays))}; write "
                    "the same arrays to all shards"
                )
        paths = [shard.path for shard in shards]
        require_all_shards(paths)
        texts = [str(path) for path in paths]
        by_number = sorted(texts, key=natural)
        if texts == sorted(texts) != by_number and "ids" not in arrays:
            at = next(i for i, text in enumerate(texts) if text != by_number[i])
            raise UserError(
                f"the shards of {name} are given in alphabetical order, with "
                f"{paths[at].name} after {paths[at - 1].name}, and without ids the "
                "order counts; give a pattern in quotes, such as 'pool-*.npz', for the "
                "order of the numbers, or give ids"
            )
    numbers = {
        name: [_numbers(_without_array(shard.path.name)) for shard in shards]
        for name, shards in several.items()
    }
    for name, found in numbers.items():
        other = next(iter(numbers))
        if found != numbers[other] and len(found) == len(numbers[other]):
            raise UserError(
                f"the shards of {name} and {other} must have the same numbers, got "
                f"{several[name][-1].path.name} and {several[other][-1].path.name} as "
                "the last; rename them"
            )


def _numbers(name: str) -> list[int]:
    return [int(text[-18:]) for text in re.findall(r"[0-9]+", name)]


class Shards(Lazy):
    """An array whose rows are in several files, which are opened when they are read."""

    def __init__(self, name: str, shards: Sequence[Shard]):
        """Opens each file once, to check its shape and type.

        Args:
            name: name of the array.
            shards: files that contain it, in order.

        Raises:
            UserError: if a file cannot be read, or differs in shape or type.
        """
        self._name = name
        self._shards: list[Shard] = []
        sizes: list[int] = []
        first: Any = None
        for shard in shards:
            try:
                column = self._open(shard)
            except NoRowError:
                continue
            if not len(column):
                continue
            first = column if first is None else first
            self._shards.append(shard)
            self._require_same(column, first)
            sizes.append(len(column))
        if first is None:
            raise UserError(
                f"{name} has no row in {shards[0].path} and {len(shards) - 1} more; "
                "write one for each example"
            )
        self._starts = np.cumsum([0, *sizes])
        self.shape = (int(self._starts[-1]), *first.shape[1:])
        self.dtype = first.dtype
        self._opened: Callable[[Shard], Any] = functools.lru_cache(_OPEN)(self._open)

    def require_rows_of(self, other: "Shards") -> None:
        """Raises an error if another array of as many shards is split elsewhere."""
        sizes, others = np.diff(self._starts), np.diff(other._starts)
        if len(sizes) == len(others) and (sizes != others).any():
            i = int(np.flatnonzero(sizes != others)[0])
            raise UserError(
                f"{self._shards[i].path} has {sizes[i]} rows of {self._name}, but "
                f"{other._shards[i].path} {others[i]} of {other._name}; write the same "
                "rows to both"
            )

    def _open(self, shard: Shard) -> Any:
        return arrays_in(shard.path, shard.name)[self._name]()

    def _require_same(self, column: Any, first: Any) -> None:
        kinds = [
            "text" if c.dtype.kind in "OSTU" else str(c.dtype) for c in (column, first)
        ]
        shapes = [column.shape[1:], first.shape[1:]]
        if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
            raise UserError(
                f"{self._name} in {self._shards[-1].path} is {kinds[0]} with rows of "
                f"shape {shapes[0]}, but in {self._shards[0].path} {kinds[1]} with "
                f"{shapes[1]}; write all shards in the same way"
            )

    def _read(self, start: int, stop: int) -> np.ndarray:
        parts = [np.zeros((0, *self.shape[1:]), self.dtype)]
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for shard, at in zip(
            self._shards[first:], self._starts[first:].tolist(), strict=False
        ):
            if at >= stop:
                break
            try:
                rows = self._opened(shard)[max(0, start - at) : stop - at]
            except UserError as error:
                if str(shard.path) in str(error):
                    raise
                raise UserError(f"{shard.path}: {error}") from error
            parts.append(np.asarray(rows))
        return np.concatenate(parts[1:] or parts)
