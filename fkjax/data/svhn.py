"""SVHN as it is published: cropped house numbers in MATLAB files."""

import zlib
from pathlib import Path

import numpy as np

from fkjax.base import UserError
from fkjax.data.mat import MatError, read_mat

NUM_CLASSES = 10
_IMAGE_SHAPE = (32, 32, 3)
_TRAIN, _EXTRA, _TEST = (f"{part}_32x32.mat" for part in ("train", "extra", "test"))
_INTACT = "replace it by an intact copy"


def has_svhn(folder: Path) -> bool:
    """Says whether a folder holds any of SVHN's three files."""
    return any((folder / name).exists() for name in (_TRAIN, _EXTRA, _TEST))


def read_svhn(folder: Path) -> list[np.ndarray]:
    """Reads `train_32x32.mat`, `test_32x32.mat` and, if it is there, `extra_32x32.mat`.

    The extra images, as in Gudovskiy et al. 2020, are training images too. Label 10,
    which stands for the digit 0, becomes 0.

    Args:
        folder: it holds the files.

    Returns:
        Training images of shape [n, 32, 32, 3] and labels of shape [n], test images
        and labels likewise, all uint8.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    for name in (_TRAIN, _TEST):
        if not (folder / name).exists():
            raise UserError(f"{folder} holds SVHN's files but no {name}; add it")
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
            raise UserError(f"{path} holds no variable {name}; {_INTACT}")
    images, labels = found["X"], found["y"]
    shape = images.shape
    if shape[:3] != _IMAGE_SHAPE or len(shape) != 4 or images.dtype != np.uint8:
        raise UserError(
            f"{path} holds X of shape {shape} and type {images.dtype} where SVHN has "
            f"uint8 of shape (32, 32, 3, n); {_INTACT}"
        )
    if labels.shape not in [(shape[3], 1), (1, shape[3])]:
        raise UserError(
            f"{path} holds y of shape {labels.shape} where SVHN has {(shape[3], 1)}; "
            f"{_INTACT}"
        )
    for i in np.flatnonzero(~np.isin(labels, np.arange(1, NUM_CLASSES + 1)))[:1]:
        raise UserError(
            f"{path} holds label {labels.flat[i]} at position {i} where SVHN has "
            f"labels 1 to {NUM_CLASSES}; {_INTACT}"
        )
    labels = labels.reshape(-1).astype(np.uint8) % NUM_CLASSES
    return np.ascontiguousarray(np.moveaxis(images, -1, 0)), labels
