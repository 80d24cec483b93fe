"""A folder of images and a CSV file of known labels."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.data.copies import first_equal, first_equal_files
from fkjax.data.datasets import STREAMED_STATISTICS, channel_statistics
from fkjax.data.decoding import SUFFIXES, ImageError, combined, decode
from fkjax.data.label_sets import COLUMNS, SETS, ignored_columns, set_column, set_of
from fkjax.data.reading import stream_in_parallel
from fkjax.files.folders import list_files
from fkjax.files.matching import Names, composed
from fkjax.files.spreadsheet import Problems, as_it_was, inert, read_rows
from fkjax.parallel.examples import Streamed

MEMORY = 1_000_000_000
"""Maximum size in bytes of decoded images in memory; larger sets are streamed."""

_SHOWN = 20  # kinds of files in one message


class Listing(NamedTuple):
    """The names and labels of images, before any image is opened.

    Attributes:
        folder: folder of the images.
        names: paths of the images in the folder, sorted. Length n.
        sizes: sizes of the files in bytes. Length n.
        pool: positions of the images without a label. Shape [N].
        validation: positions of the labeled images of the validation set, which are
            representative of deployment. Shape [M].
        train: positions of the labeled images to train on.
        test: positions of the labeled images of the test set.
        labels: labels as positions in `classes`, or -1. Shape [n] int32.
        classes: distinct labels, in natural order. Length C.
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
        names: see `Listing`.
        images: the images, an array or streamed. Shape [n, S, S, channels] uint8.
        pool: see `Listing`.
        validation: see `Listing`.
        train: see `Listing`.
        test: see `Listing`.
        labels: see `Listing`.
        classes: see `Listing`.
        mean: mean of each channel of images / 255.
        std: standard deviation of each channel of images / 255.
        first: position of the first equal image of each: one with the same decoded
            pixels or, if the images are streamed, with the same bytes in its file.
            Shape [n].
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
    first: np.ndarray


def read_own_images(
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    image_size: int = 224,
    follow_links: bool = False,
    tell: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> OwnImages:
    """Calls `list_images`, then `load_images`; see there for the arguments."""
    listing = list_images(folder, labels, follow_links=follow_links, notify=notify)
    return load_images(listing, image_size=image_size, tell=tell)


def list_images(
    folder: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    *,
    follow_links: bool = False,
    suffixes: tuple[str, ...] = SUFFIXES,
    former: Callable[[Sequence[str]], Mapping[str, str | None]] | None = None,
    notify: Callable[[str], None] | None = None,
) -> Listing:
    """Lists the images of a folder and reads their labels.

    The names of images end in one of `fkjax.data.decoding.SUFFIXES`. Images can be in
    subfolders of any depth. Other files are left out, and hidden files are ignored.
    The CSV file has the columns `file`, the path of an image in the folder, `label`
    and, optionally, `set` or `split`, one of `SETS` or of their usual short names, such
    as val. Images that are not in the CSV file are the pool. Other columns are ignored,
    but a column that seems to name sets is refused.

    Args:
        folder: folder of the images.
        labels: path of the CSV file.
        follow_links: whether links may lead out of the folder.
        suffixes: suffixes of the names of images.
        former: function that takes the names of the images, and returns the present
            name of each name that is no longer there, or None for an image that is
            gone; the CSV file may have these names, too.
        notify: `notify(sentence)` is called if columns of the CSV file were ignored,
            with their names, and if files were left out, with their number and kinds.
            The CSV file and hidden files do not count.

    Returns:
        The images and their labels.

    Raises:
        UserError: if the folder cannot be read, a link points out of it, or the CSV
            file is invalid. The message lists all problems of the CSV file.
    """
    folder, path = Path(folder), Path(labels)
    others: list[str] = []
    found = list_files(folder, suffixes, others, follow_links=follow_links)
    names = sorted(found)
    if not names:
        raise UserError(
            f"--images {folder} contains no {', '.join(suffixes)} file"
            f"{_kinds(others, ', only ')}: give the folder of the images"
        )
    if len({inert(name).strip() for name in names}) < len(names):
        raise UserError(
            f"two images of {folder} have names that differ only in surrounding spaces "
            "or in characters that cannot be displayed: rename one"
        )
    problems = Problems(path)
    earlier = former(names) if former else {}
    known = _known(path, names, earlier, problems, notify)
    of_validation = {label for label, part in known.values() if part == SETS[0]}
    if len(of_validation) < 2:
        problems.add(
            f"the validation set has {len(of_validation)} class(es), but at least two "
            "are needed"
        )
    if len(known) == len(names):
        problems.add("contains all images, so that none is left as the pool")
    problems.raise_any("fix the file")
    classes = sorted({label for label, _ in known.values()}, key=natural)
    number = {name: i for i, name in enumerate(classes)}
    parts = {part: [] for part in ("", *SETS)}
    numbers = np.full(len(names), -1, np.int32)
    for i, name in enumerate(names):
        label, part = known.get(name, ("", ""))
        parts[part].append(i)
        numbers[i] = number.get(label, -1)
    labels_path = os.path.realpath(path)
    others = [o for o in others if os.path.realpath(folder / o) != labels_path]
    if others and notify:
        files = "file" if len(others) == 1 else "files"
        notify(
            f"left out {len(others)} {files} of {folder} that are not "
            f"{', '.join(SUFFIXES)}{_kinds(others, ': ')}"
        )
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
    statistics: Sequence[Sequence[float]] | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> OwnImages:
    """Decodes the images of a listing and resizes their central squares.

    If all images take no more than `MEMORY` bytes, they are kept in memory, with one
    channel if every image is grayscale. Otherwise, they are streamed, that is, decoded
    when they are used, with three channels and normalized by the statistics of
    ImageNet. Images are not augmented.

    Args:
        listing: the images.
        image_size: height and width of the decoded images, S.
        statistics: mean and standard deviation of each channel, in place of those of
            these images; a single channel makes all images grayscale.
        tell: `tell(done, total)` is called after each image that is kept in memory.

    Returns:
        The images with their labels.

    Raises:
        UserError: if an image that is kept in memory cannot be decoded. For a streamed
            image, the error is raised when it is used; see
            `fkjax.data.reading.plain_errors`. Also if `statistics` are of one channel
            and an image has colors.
    """
    channels = len(statistics[0]) if statistics else 3
    shape, num_images = (image_size, image_size, channels), len(listing.names)

    def read_one(i: int) -> np.ndarray:
        path = os.path.join(listing.folder, listing.names[i])
        image = decode(path, path, image_size=image_size, crop=1.0)
        if channels < 3 and not _is_gray(image):
            what = "has colors, but the images before were all grayscale"
            raise ImageError(path, what, "convert it to grayscale, or remove it")
        return np.ascontiguousarray(image[..., :channels])

    if num_images * math.prod(shape) > MEMORY:
        images = stream_in_parallel(read_one, num_images, shape)
        mean, std = statistics or STREAMED_STATISTICS[3]
        first = first_equal_files([listing.folder / name for name in listing.names])
    else:
        images = _kept(read_one, num_images, shape, tell or (lambda done, total: None))
        # One at a time, to avoid a copy of all images.
        if statistics is None and all(map(_is_gray, images)):
            images = np.ascontiguousarray(images[..., :1])
        mean, std = statistics or channel_statistics(images)
        first = first_equal(images)
    mean, std = tuple(mean), tuple(std)
    return OwnImages(listing.names, images, *listing[3:], mean, std, first)


def _kinds(names: Sequence[str], before: str) -> str:
    """Counts files by the suffixes of their names, the most frequent first."""
    suffixes = (os.path.splitext(name)[1].lower() for name in names)
    counts = Counter(suffix or "without a suffix" for suffix in suffixes).most_common()
    shown = [f"{count} {suffix}" for suffix, count in counts[:_SHOWN]]
    rest = sum(count for _, count in counts[_SHOWN:])
    shown += [f"{rest} of other kinds"] if rest else []
    return before + ", ".join(shown) if shown else ""


def natural(text: str) -> tuple[Any, ...]:
    """Returns a key that sorts numbers in texts by their values.

    >>> sorted(["b10", "b9", "10", "9", "a"], key=natural)
    ['9', '10', 'a', 'b9', 'b10']
    """
    parts = []
    for part in re.findall(r"[0-9]+|[^0-9]+", text):
        digits = part.lstrip("0")  # compared by length, since int() limits the length
        parts.append((0, len(digits), digits) if part[0] in "0123456789" else (1, part))
    return (parts, text)


def flaw_of_class(name: str) -> str | None:
    """Describes why a text cannot be the name of a class; returns None if it can."""
    if not name:
        return "is empty"
    if not name.isprintable():
        return f"{name!r} has a character that cannot be displayed"
    if as_it_was(inert(name)) != name:
        return f"{name!r} starts like a cell with an escaped formula"
    return None


def _known(
    path: Path,
    names: Sequence[str],
    earlier: Mapping[str, str | None],
    problems: Problems,
    notify: Callable[[str], None] | None,
) -> dict[str, tuple[str, str]]:
    """Reads the label and the set of each image in the CSV file.

    Labels that differ only in their Unicode normal form are written as the first.
    """
    rows = read_rows(path, ("file", "label"), problems, optional=COLUMNS)
    files, former, classes = Names(names), Names(earlier), dict[str, str]()
    known: dict[str, tuple[str, str]] = {}
    lines: dict[str, int] = {}
    renamed: dict[str, str] = {}
    column = set_column(rows, problems)
    for line, cells in rows:
        given, label = cells["file"], as_it_was(cells["label"])
        part = set_of(cells, column)
        label = classes.setdefault(composed(label), label)
        found = files.find(given)
        name = found[0] if len(found) == 1 else None
        was = [] if found else former.find(given)
        if len(was) == 1:
            name = earlier[was[0]]
            if name is None:  # the image is gone
                continue
            renamed[name] = was[0]
        what = flaw_of_class(label)
        if name is None:
            hint = files.hint(given)
            problems.add(f"there is no image {given or '(no name)'}{hint}", line)
        elif name in known:
            old = f" (it was renamed from {renamed[name]})" if name in renamed else ""
            problems.add(f"{name}{old} is in line {lines[name]}, too", line)
        elif what:
            rest = "" if label else " (leave out images without a label)"
            problems.add(f"the label of {name} {what}{rest}", line)
        elif part not in SETS:
            problems.add(f"the set {part!r} is not one of {', '.join(SETS)}", line)
        if name is not None:
            lines.setdefault(name, line)
            known.setdefault(name, (label, part))
    if not rows:
        problems.add("has no line after the first")
    ignored = ignored_columns(rows)
    if ignored and notify and not len(problems):
        notify(f"ignored the columns {', '.join(ignored)} of {path}")
    return known


def _kept(
    read_one: Callable[[int], np.ndarray],
    num_images: int,
    shape: tuple[int, int, int],
    tell: Callable[[int, int], None],
) -> np.ndarray:
    images = np.empty((num_images, *shape), np.uint8)
    errors: list[UserError] = []

    def read(i: int) -> UserError | None:
        try:
            images[i] = read_one(i)
        except UserError as error:
            return error
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for done, error in enumerate(threads.map(read, range(num_images)), start=1):
            errors += [error] if error else []
            tell(done, num_images)
    if errors:
        raise combined(errors)
    return images


def _is_gray(image: np.ndarray) -> bool:
    return bool((image[..., :1] == image).all())
