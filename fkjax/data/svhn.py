"""SVHN, read from the MATLAB files in which the cropped digits are published."""

import zlib
from pathlib import Path

import numpy as np

from fkjax.base import UserError
from fkjax.data.mat import MatError, read_mat

NUM_CLASSES = 10
_IMAGE_SHAPE = (32, 32, 3)
_TRAIN, _EXTRA, _TEST = (f"{part}_32x32.mat" for part in ("train", "extra", "test"))
_INTACT = "replace it by an undamaged copy"


def has_svhn(folder: Path) -> bool:
    """Returns whether a folder contains any of the three files of SVHN."""
    return any((folder / name).exists() for name in (_TRAIN, _EXTRA, _TEST))


def read_svhn(folder: Path) -> list[np.ndarray]:
    """Reads `train_32x32.mat`, `test_32x32.mat` and, optionally, `extra_32x32.mat`.

    As in Gudovskiy et al. 2020, the extra images are also used as training images.
    Label 10, which denotes the digit 0, becomes 0.

    Args:
        folder: folder of the files.

    Returns:
        The training images, of shape [n, 32, 32, 3], their labels, of shape [n], the
        test images and their labels, all of type uint8.

    Raises:
        UserError: if a file is missing or damaged. The message names it.
    """
    for name in (_TRAIN, _TEST):
        if not (folder / name).exists():
            raise UserError(f"{folder} contains files of SVHN but no {name}; add it")
    names = [_TRAIN, _EXTRA] if (folder / _EXTRA).exists() else [_TRAIN]
    train = [_read(folder / name) for name in names]
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return [images, labels, *_read(folder / _TEST)]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = read_mat(path, ("X", "y"))
    except (OSError, MatError, zlib.error, MemoryError) as error:
        raise UserError(
            f"{path} could not be read as a MATLAB 5 file ({error}); {_INTACT}"
        ) from error
    for name in ("X", "y"):
        if name not in found:
            raise UserError(f"{path} contains no variable {name}; {_INTACT}")
    images, labels = found["X"], found["y"]
    shape = images.shape
    if shape[:3] != _IMAGE_SHAPE or len(shape) != 4 or images.dtype != np.uint8:
        raise UserError(
            f"{path} contains X of shape {shape} and type {images.dtype}, but SVHN has "
            f"uint8 of shape (32, 32, 3, n); {_INTACT}"
        )
    if labels.shape not in [(shape[3], 1), (1, shape[3])]:
        raise UserError(
            f"{path} contains y of shape {labels.shape}, but SVHN has {(shape[3], 1)}; "
            f"{_INTACT}"
        )
    for i in np.flatnonzero(~np.isin(labels, np.arange(1, NUM_CLASSES + 1)))[:1]:
        raise UserError(
            f"{path} contains label {labels.flat[i]} at position {i}, but SVHN has "
            f"labels 1 to {NUM_CLASSES}; {_INTACT}"
        )
    labels = labels.reshape(-1).astype(np.uint8) % NUM_CLASSES
    return np.ascontiguousarray(np.moveaxis(images, -1, 0)), labels
