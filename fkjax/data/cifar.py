"""CIFAR-10 and CIFAR-100 from their binary version: records of label and pixels."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import MAX_BYTES, open_file

_PIXELS = 3 * 32 * 32
_INTACT = "replace it by an intact copy"


class _Format(NamedTuple):
    subfolder: str  # of the archive
    train: tuple[str, ...]
    test: str
    num_label_bytes: int  # of which the last one is the class
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
    """Says whether a folder, or the archive's own in it, holds any of a set's files."""
    return name in _FORMATS and _place(_FORMATS[name], folder) is not None


def read_cifar(name: str, folder: Path) -> tuple[list[np.ndarray], int]:
    """Reads a set's `.bin` files.

    Args:
        name: `cifar10` or `cifar100`, of which the 100 fine labels are read.
        folder: for which `has_cifar` is true.

    Returns:
        Training images of shape [n, 32, 32, 3] and labels of shape [n], test images
        and labels likewise, all uint8; and C.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    form = _FORMATS[name]
    place = _place(form, folder) or folder
    for file in (*form.train, form.test):
        if not (place / file).exists():
            raise UserError(f"{place} holds files of {name} but no {file}; add it")
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
                    f"{path} has {size} bytes, which is no number of records of "
                    f"{record} bytes, from 1 to what {MAX_BYTES} bytes hold; {_INTACT}"
                )
            records = np.fromfile(file, np.uint8, size).reshape(-1, record)
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} could not be read ({error}); {_INTACT}") from error
    labels = records[:, form.num_label_bytes - 1]
    for i in np.flatnonzero(labels >= form.num_classes)[:1]:
        raise UserError(
            f"{path} holds label {labels[i]} at position {i} where the classes are 0 "
            f"to {form.num_classes - 1}; {_INTACT}"
        )
    planes = records[:, form.num_label_bytes :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
