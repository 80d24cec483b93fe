"""SVHN as it is published: cropped house numbers in MATLAB files."""

from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.idx import MAX_BYTES

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
    import scipy.io

    try:
        # The headers alone, so that no absurd size is allocated.
        found = {name: rest for name, *rest in scipy.io.whosmat(path)}
        _check_headers(path, found)
        contents: Any = scipy.io.loadmat(path, variable_names=["X", "y"])
        images, labels = np.asarray(contents["X"]), np.asarray(contents["y"])
    except UserError:
        raise
    except Exception as error:  # SciPy raises errors of many kinds; each is told
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} could not be read as a MATLAB 5 file ({first_line}); {_INTACT}"
        ) from error
    for i in np.flatnonzero(~np.isin(labels, np.arange(1, NUM_CLASSES + 1)))[:1]:
        raise UserError(
            f"{path} holds label {labels.flat[i]} at position {i} where SVHN has "
            f"labels 1 to {NUM_CLASSES}; {_INTACT}"
        )
    labels = labels.reshape(-1).astype(np.uint8) % NUM_CLASSES
    return np.ascontiguousarray(np.moveaxis(images, -1, 0)), labels


def _check_headers(path: Path, found: dict[str, Any]) -> None:
    """Found: (shape, MATLAB's class) by name."""
    for name in ("X", "y"):
        if name not in found:
            raise UserError(
                f"{path} holds no variable {name}, or ends before it; {_INTACT}"
            )
    (shape, kind), (label_shape, label_kind) = found["X"], found["y"]
    if len(shape) != 4 or shape[:3] != _IMAGE_SHAPE or not shape[3] or kind != "uint8":
        raise UserError(
            f"{path} holds X of shape {shape} and class {kind} where SVHN has uint8 of "
            f"shape (32, 32, 3, n); {_INTACT}"
        )
    if label_shape not in [(shape[3], 1), (1, shape[3])] or label_kind not in (
        "uint8",
        "double",
    ):
        raise UserError(
            f"{path} holds y of shape {label_shape} and class {label_kind} where SVHN "
            f"has numbers of shape ({shape[3]}, 1); {_INTACT}"
        )
    if np.prod(shape, dtype=float) > MAX_BYTES:
        raise UserError(
            f"{path} declares {shape[3]} images, more than the {MAX_BYTES} bytes that "
            f"fkjax takes; {_INTACT}"
        )
