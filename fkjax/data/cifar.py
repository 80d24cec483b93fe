"""CIFAR-10 and CIFAR-100, read from the files of their binary version."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import MAX_BYTES, open_file

_PIXELS = 3 * 32 * 32
_INTACT = "replace it by an undamaged copy"


class _Format(NamedTuple):
    subfolder: str  # name of the folder in the archive
    train: tuple[str, ...]
    test: str
    num_label_bytes: int  # the last of these bytes is the class
    num_classes: int


_FORMATS = {
    "cifar10": _Format(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        num_label_bytes=1,
        num_classes=10,
    ),
    "cifar100": _Format(
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        num_label_bytes=2,  # the superclass comes first
        num_classes=100,
    ),
}


def has_cifar(name: str, folder: Path) -> bool:
    """Returns whether a folder, or its subfolder, contains a file of a CIFAR set."""
    return name in _FORMATS and _place(_FORMATS[name], folder) is not None


def read_cifar(name: str, folder: Path) -> tuple[list[np.ndarray], int]:
    """Reads the `.bin` files of CIFAR-10 or CIFAR-100.

    Args:
        name: `cifar10` or `cifar100`. Of the latter, the 100 fine labels are read.
        folder: folder for which `has_cifar` returns true.

    Returns:
        The training images, of shape [n, 32, 32, 3], their labels, of shape [n], the
        test images and their labels, all of type uint8; and the number of classes, C.

    Raises:
        UserError: if a file is missing or damaged. The message names it.
    """
    form = _FORMATS[name]
    place = _place(form, folder) or folder
    for file in (*form.train, form.test):
        if not (place / file).exists():
            raise UserError(f"{place} contains files of {name} but no {file}; add it")
    train = [_read(place / file, form) for file in form.train]
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return [images, labels, *_read(place / form.test, form)], form.num_classes


def _place(form: _Format, folder: Path) -> Path | None:
    places = (folder, folder / form.subfolder)
    files = (*form.train, form.test)
    return next((p for p in places if any((p / f).exists() for f in files)), None)


def _read(path: Path, form: _Format) -> tuple[np.ndarray, np.ndarray]:
    record = form.num_label_bytes + _PIXELS
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if not size or size % record or size > MAX_BYTES:
                raise UserError(
                    f"{path} has {size} bytes; expected one or more records of "
                    f"{record} bytes, and at most {MAX_BYTES} bytes: {_INTACT}"
                )
            records = np.fromfile(file, np.uint8, size).reshape(-1, record)
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} could not be read ({error}); {_INTACT}") from error
    labels = records[:, form.num_label_bytes - 1]
    for i in np.flatnonzero(labels >= form.num_classes)[:1]:
        raise UserError(
            f"{path} contains label {labels[i]} at position {i}, but the classes are "
            f"0 to {form.num_classes - 1}; {_INTACT}"
        )
    planes = records[:, form.num_label_bytes :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
