"""Image folders: `<part>/<class>/<image>`."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fkjax.base import UserError
from fkjax.data.decoding import SUFFIXES, decode
from fkjax.data.reading import stream_in_parallel
from fkjax.files.folders import Links, is_hidden
from fkjax.files.matching import composed
from fkjax.parallel.examples import Streamed

_SHOWN = 20  # files in one message
_TEST_PARTS = ("test", "val")


def is_image_folder(folder: Path) -> bool:
    """Returns whether a folder contains a folder `train`."""
    return (folder / "train").is_dir()


def read_image_folder(
    folder: Path,
    *,
    image_size: int,
    follow_links: bool = False,
    notify: Callable[[str], object] | None = None,
) -> tuple[tuple[Streamed, np.ndarray, Streamed, np.ndarray], int]:
    """Lists the images of `train/<class>/` and of `test/<class>/` or `val/<class>/`.

    The classes are the sorted names of the folders in `train`. Names that differ only
    in their Unicode normal form are the same class. The names of images end in one of
    `fkjax.data.decoding.SUFFIXES`. Images are decoded when they are used (see
    `fkjax.data.decoding.decode`), without augmentation. Hidden files are ignored. If
    there are both, `test/<class>/` is read and `val/` is not. The folder of the dataset
    may be a link to any folder, but links inside must stay in the data folder.

    Args:
        folder: folder of the dataset, in the data folder.
        image_size: height and width of the images, S.
        follow_links: whether links inside may lead out of the data folder.
        notify: function called with a sentence if one of `test/` and `val/` is not
            used, with its number of images.

    Returns:
        The training images, of shape [n, S, S, 3], their labels, of shape [n], the test
        images and their labels; and the number of classes, C.

    Raises:
        UserError: if a class is empty or in one part only, a file is not an image, or a
            link points out of the data folder. For a file that cannot be decoded, the
            error is raised when it is used.
    """
    tree = _Tree(folder, follow_links)
    # The folder test of ImageNet contains images without classes: then val is used.
    tests = [part for part in _TEST_PARTS if tree.folders(folder / part)]
    if not tests:
        raise UserError(
            f"{folder} has train/ but neither test/<class>/ nor val/<class>/; add one"
        )
    train, test = folder / "train", folder / tests[0]
    for unused in [folder / part for part in _TEST_PARTS if part != tests[0]]:
        if notify and unused.is_dir():
            names = [name for _, _, found in os.walk(unused) for name in found]
            num = sum(name.lower().endswith(SUFFIXES) for name in names)
            notify(
                f"{unused} is not used, with its {num} images: the test images are "
                f"those of {test}"
            )
    classes, test_classes = (_classes(tree, part) for part in (train, test))
    for part, others, place, lacks in (
        (test_classes, classes, test, train),
        (classes, test_classes, train, test),
    ):
        for name in sorted(set(part) - set(others))[:1]:
            raise UserError(
                f"{place / part[name]} is a class that {lacks} does not have; give "
                "both the same classes"
            )
    arrays = (
        *_part(tree, train, list(classes.values()), image_size),
        *_part(tree, test, [test_classes[name] for name in classes], image_size),
    )
    return arrays, len(classes)


def _classes(tree: "_Tree", folder: Path) -> dict[str, str]:
    """Returns the folders of the classes by their names in Unicode normal form C."""
    found: dict[str, str] = {}
    for name in tree.folders(folder):
        other = found.setdefault(composed(name), name)
        if other != name:
            raise UserError(
                f"{folder} has two folders {name!r} that differ only in their Unicode "
                "normal form; make them one"
            )
    return found


def _part(
    tree: "_Tree", folder: Path, classes: list[str], image_size: int
) -> tuple[Streamed, np.ndarray]:
    for name in sorted(set(tree.names(folder)) - set(classes))[:1]:
        raise UserError(
            f"{folder / name} is not the folder of a class; remove it, or move it into "
            "one"
        )
    names, labels = [], []
    for label, name in enumerate(classes):
        images = tree.images(folder / name)
        names += images
        labels += [label] * len(images)

    def read_one(i: int) -> np.ndarray:
        path = os.path.join(folder, classes[labels[i]], names[i])
        return decode(path, path, image_size=image_size)

    shape = (image_size, image_size, 3)
    images = stream_in_parallel(read_one, len(names), shape)
    return images, np.array(labels, np.int32)


class _Tree:
    """A reader of the folders of a dataset."""

    def __init__(self, folder: Path, follow_links: bool):
        self._homes = [os.path.realpath(home) for home in (folder, folder.parent)]
        self._follow_links = follow_links

    def images(self, folder: Path) -> list[str]:
        entries = self._entries(folder)
        others = [
            entry.path
            for entry in entries
            if not entry.name.lower().endswith(SUFFIXES) or not entry.is_file()
        ]
        if others:
            more = len(others) - _SHOWN
            rest = f", and {more} more" if more > 0 else ""
            verb = "is not a" if len(others) == 1 else "are not"
            files = "file" if len(others) == 1 else "files"
            raise UserError(
                f"{', '.join(others[:_SHOWN])}{rest} {verb} {', '.join(SUFFIXES)} "
                f"{files}; remove or convert {'it' if len(others) == 1 else 'them'}"
            )
        if not entries:
            raise UserError(f"{folder} contains no image; add images or remove it")
        return [entry.name for entry in entries]

    def folders(self, folder: Path) -> list[str]:
        if not folder.is_dir():
            return []
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def names(self, folder: Path) -> list[str]:
        return [entry.name for entry in self._entries(folder)]

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Lists the entries of a folder that are not hidden, sorted by name."""
        links = Links(
            self._homes,
            within="the data folder",
            follow_links=self._follow_links,
        )
        links.target(os.fspath(folder))
        links.raise_any()
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not is_hidden(entry.name)]
        except OSError as error:
            raise UserError(
                f"{folder} could not be read ({error.strerror}); fix it"
            ) from error
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                links.target(entry.path)
        links.raise_any()
        return sorted(entries, key=lambda entry: entry.name)
