"""A folder of images, and a CSV file of the labels that are known."""

import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.data.datasets import STREAMED_STATISTICS, channel_statistics
from fkjax.data.decoding import decode
from fkjax.data.reading import stream_in_parallel
from fkjax.files.folders import list_files
from fkjax.files.spreadsheet import Problems, as_it_was, inert, read_rows
from fkjax.parallel.examples import Streamed

SUFFIXES = (".jpg", ".jpeg", ".png")
SETS = ("validation", "train", "test")
"""What a label may serve for; the first if nothing else is said."""

MEMORY = 1_000_000_000
"""Bytes up to which the decoded images are kept in memory; more are streamed."""


class Listing(NamedTuple):
    """The images and labels of a user, before an image is opened.

    Attributes:
        folder: that holds the images.
        names: their paths in it, sorted. Length n.
        sizes: of the files, in bytes. Length n.
        pool: positions of the images whose label is not known. Shape [N].
        validation: positions of the images that look like deployment. Shape [M].
        train: positions of the labelled images to train on.
        test: positions of the labelled images that are only reported on.
        labels: as positions in `classes`, or -1. Shape [n] int32.
        classes: the distinct labels, in natural order. Length C.
    """

    folder: Path
    names: list[str]
    sizes: list[int]
    pool: np.ndarray
    validation: np.ndarray
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    classes: list[str]


class OwnImages(NamedTuple):
    """A `Listing` with its images.

    Attributes:
        names: as in the listing, like all up to the classes.
        images: uint8, an array or streamed. Shape [n, S, S, channels].
        pool: Shape [N].
        validation: Shape [M].
        train: positions.
        test: positions.
        labels: Shape [n] int32.
        classes: Length C.
        mean: per channel, of images / 255.
        std: per channel, of images / 255.
    """

    names: list[str]
    images: np.ndarray | Streamed
    pool: np.ndarray
    validation: np.ndarray
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_own_images(
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    image_size: int = 224,
    tell: Callable[[int, int], None] | None = None,
) -> OwnImages:
    """`list_images` and `load_images`, one after the other."""
    listing = list_images(folder, labels)
    return load_images(listing, image_size=image_size, tell=tell)


def list_images(
    folder: str | os.PathLike[str], labels: str | os.PathLike[str]
) -> Listing:
    """Lists the images of a folder, and reads what is known of them.

    Images end in .jpg, .jpeg or .png and may be in subfolders of any depth; all other
    files, and hidden ones, are ignored. The CSV file has the columns `file`, the
    image's path in the folder, `label`, and perhaps `set`: one of `SETS`. Images that
    it does not name are the pool.

    Args:
        folder: of the images.
        labels: the CSV file.

    Raises:
        UserError: if the folder cannot be read, or a link leads out of it; or with all
            that is wrong with the CSV file.
    """
    folder, path = Path(folder), Path(labels)
    found = list_files(folder, SUFFIXES)
    names = sorted(found)
    if not names:
        raise UserError(
            f"--images {folder} holds no {', '.join(SUFFIXES)} file: name the folder "
            "with the images"
        )
    if len({inert(name) for name in names}) < len(names):
        raise UserError(
            f"two images of {folder} have names that differ only in characters which "
            "cannot be shown: rename one"
        )
    problems = Problems(path)
    known = _known(path, names, problems)
    of_validation = {label for label, part in known.values() if part == SETS[0]}
    if len(of_validation) < 2:
        problems.add(
            f"the validation set has {len(of_validation)} class(es), but needs two or "
            "more"
        )
    if len(known) == len(names):
        problems.add("names all images, so that none is left as the pool")
    problems.raise_any("mend the file")
    classes = sorted({label for label, _ in known.values()}, key=natural)
    number = {name: i for i, name in enumerate(classes)}
    parts = {part: [] for part in ("", *SETS)}
    numbers = np.full(len(names), -1, np.int32)
    for i, name in enumerate(names):
        label, part = known.get(name, ("", ""))
        parts[part].append(i)
        numbers[i] = number.get(label, -1)
    return Listing(
        folder,
        names,
        [found[name] for name in names],
        *(np.array(parts[part], np.int32) for part in ("", *SETS)),
        labels=numbers,
        classes=classes,
    )


def load_images(
    listing: Listing,
    *,
    image_size: int = 224,
    tell: Callable[[int, int], None] | None = None,
) -> OwnImages:
    """Decodes the images: their central squares, resized.

    If all of them take no more than `MEMORY` they are kept there, with one channel if
    every image is grey. More are streamed: decoded whenever they are used, in colour,
    and normalised by ImageNet's statistics. None is augmented.

    Args:
        listing: of what.
        image_size: S.
        tell: `tell(done, total)` is called after each image that is kept.

    Raises:
        UserError: if an image that is kept cannot be decoded. One that is streamed is
            told when it is used; see `fkjax.data.reading.plain_errors`.
    """
    shape, num_images = (image_size, image_size, 3), len(listing.names)

    def read_one(i: int) -> np.ndarray:
        path = os.path.join(listing.folder, listing.names[i])
        return decode(path, path, image_size=image_size, crop=1.0)

    if num_images * math.prod(shape) > MEMORY:
        images = stream_in_parallel(read_one, num_images, shape)
        mean, std = STREAMED_STATISTICS[3]
    else:
        images = _kept(read_one, num_images, shape, tell or (lambda done, total: None))
        mean, std = channel_statistics(images)
    return OwnImages(listing.names, images, *listing[3:], mean, std)


def natural(text: str) -> tuple[Any, ...]:
    """What to sort by so that numbers come as numbers.

    >>> sorted(["b10", "b9", "10", "9", "a"], key=natural)
    ['9', '10', 'a', 'b9', 'b10']
    """
    parts = []
    for part in re.findall(r"[0-9]+|[^0-9]+", text):
        digits = part.lstrip("0")  # by length: Python reads no number of any length
        parts.append((0, len(digits), digits) if part[0] in "0123456789" else (1, part))
    return (parts, text)


def flaw_of_class(name: str) -> str | None:
    """What keeps a text from being the name of a class, in a few words, or None."""
    if not name:
        return "is empty"
    if not name.isprintable():
        return f"{name!r} has a character that cannot be shown"
    if as_it_was(inert(name)) != name:
        return f"{name!r} begins as a cell that a spreadsheet was kept from running"
    return None


def _known(
    path: Path, names: Sequence[str], problems: Problems
) -> dict[str, tuple[str, str]]:
    """Label and set of each image that the CSV file names."""
    rows = read_rows(path, ("file", "label"), problems)
    files = {inert(name): name for name in names} | {name: name for name in names}
    homes: dict[str, list[str]] = {}
    for name in names:
        homes.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    known: dict[str, tuple[str, str]] = {}
    lines: dict[str, int] = {}
    for line, cells in rows:
        given, label = cells["file"], as_it_was(cells["label"])
        part = cells.get("set", "").lower() or SETS[0]
        name = files.get(given) or files.get(os.path.normpath(given))
        name = name or files.get(os.path.normpath(given.replace("\\", "/")))
        what = flaw_of_class(label)
        if name is None:
            near = homes.get(re.split(r"[/\\]", given)[-1], [])
            hint = f" (did you mean {near[0]}?)" if len(near) == 1 else ""
            problems.add(f"there is no image {given or '(no name)'}{hint}", line)
        elif name in known:
            problems.add(f"{name} is in line {lines[name]}, too", line)
        elif what:
            problems.add(f"the label of {name} {what}", line)
        elif part not in SETS:
            problems.add(f"the set {part!r} is none of {', '.join(SETS)}", line)
        if name is not None:
            lines.setdefault(name, line)
            known.setdefault(name, (label, part))
    if not rows:
        problems.add("has no line but the first")
    return known


def _kept(
    read_one: Callable[[int], np.ndarray],
    num_images: int,
    shape: tuple[int, int, int],
    tell: Callable[[int, int], None],
) -> np.ndarray:
    images = np.empty((num_images, *shape), np.uint8)
    flaws: list[str] = []

    def read(i: int) -> str:
        try:
            images[i] = read_one(i)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for done, what in enumerate(threads.map(read, range(num_images)), start=1):
            flaws += [what] if what else []
            tell(done, num_images)
    if flaws:
        more = f" (and {len(flaws) - 1} more cannot be used)" if flaws[1:] else ""
        raise UserError(f"{flaws[0]}{more}")
    is_grey = all(
        (image[..., :1] == image).all() for image in images
    )  # one at a time: no second copy of all
    return np.ascontiguousarray(images[..., :1]) if is_grey else images
