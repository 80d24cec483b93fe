"""Image folders: a folder for each part, in it one for each class, in it the images."""

import os
from pathlib import Path

import numpy as np

from fkjax.base import UserError
from fkjax.decoding import decode
from fkjax.images import Streamed
from fkjax.reading import stream_in_parallel

_SUFFIXES = (".jpg", ".jpeg", ".png")
_TEST_PARTS = ("test", "val")


def is_image_folder(folder: Path) -> bool:
    """Says whether a folder holds a folder `train`."""
    return (folder / "train").is_dir()


def read_image_folder(
    folder: Path, *, image_size: int
) -> tuple[tuple[Streamed, np.ndarray, Streamed, np.ndarray], int]:
    """Lists the images of `train/<class>/` and of `test/<class>/` or `val/<class>/`.

    The classes are the names of train's folders, sorted. Images end in .jpg, .jpeg or
    .png; they are decoded when they are used (see `fkjax.decoding.decode`), and without
    augmentation. Hidden files are ignored.

    Args:
        folder: of the set.
        image_size: S.

    Returns:
        Training images of shape [n, S, S, 3] and labels of shape [n], test images and
        labels likewise; and C.

    Raises:
        UserError: if a class is empty or in one part only, or a file is no image. One
            that cannot be decoded is told when it is used.
    """
    # ImageNet's test folder holds images without a class; then val is meant.
    tests = [part for part in _TEST_PARTS if _folders(folder / part)]
    if not tests:
        raise UserError(
            f"{folder} has train/ but neither test/<class>/ nor val/<class>/; add one"
        )
    train, test = folder / "train", folder / tests[0]
    classes = _folders(train)
    for part, others, place in (
        (_folders(test), classes, test),
        (classes, _folders(test), train),
    ):
        for name in sorted(set(part) - set(others))[:1]:
            lacks = train if place == test else test
            raise UserError(
                f"{place / name} is a class that {lacks} lacks; give both the same"
            )
    arrays = (
        *_part(train, classes, image_size),
        *_part(test, classes, image_size),
    )
    return arrays, len(classes)


def _part(
    folder: Path, classes: list[str], image_size: int
) -> tuple[Streamed, np.ndarray]:
    for name in sorted(set(_names(folder)) - set(classes))[:1]:
        raise UserError(
            f"{folder / name} is no folder of a class; remove it or move it into one"
        )
    names, labels = [], []
    for label, name in enumerate(classes):
        images = _images(folder / name)
        names += images
        labels += [label] * len(images)

    def read_one(i: int) -> np.ndarray:
        path = os.path.join(folder, classes[labels[i]], names[i])
        return decode(path, path, image_size=image_size)

    shape = (image_size, image_size, 3)
    images = stream_in_parallel(read_one, len(names), shape)
    return images, np.array(labels, np.int32)


def _images(folder: Path) -> list[str]:
    names = _names(folder)
    for name in names:
        path = os.path.join(folder, name)
        if not name.lower().endswith(_SUFFIXES) or not os.path.isfile(path):
            raise UserError(
                f"{path} is no {', '.join(_SUFFIXES)} file; remove or convert it"
            )
    if not names:
        raise UserError(f"{folder} holds no image; add some or remove it")
    return names


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [name for name in _names(folder) if (folder / name).is_dir()]


def _names(folder: Path) -> list[str]:
    """What is in a folder and not hidden, sorted."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(
            f"{folder} could not be read ({error.strerror}); mend it"
        ) from error
