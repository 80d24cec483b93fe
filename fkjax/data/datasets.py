"""Image classification sets by name: scikit-learn's, files', image folders', TFDS's.

Nothing is ever written outside a folder that the user named.
"""

import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.data.cifar import has_cifar, read_cifar
from fkjax.data.idx import has_idx, read_folder
from fkjax.data.image_folder import is_image_folder, read_image_folder
from fkjax.data.svhn import NUM_CLASSES as _SVHN_CLASSES
from fkjax.data.svhn import has_svhn, read_svhn
from fkjax.data.tfds import load_tfds, unknown_name
from fkjax.parallel.examples import Streamed

_NUM_CLASSES = {"mnist": 10, "fashion_mnist": 10}
_HALF = ((0.5,) * 3, (0.5,) * 3)
_NORMALISATION = {
    "mnist": ((0.1307,), (0.3081,)),
    "svhn": _HALF,
    "svhn_cropped": _HALF,
}
STREAMED_STATISTICS = {
    1: ((0.449,), (0.226,)),
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of ImageNet, by channels: for streamed images, which are
not all read for their own."""


class Dataset(NamedTuple):
    """A training part and a test part of n images in C classes each.

    Attributes:
        name: the name that `load` knows it by.
        train_images: uint8, an array or streamed. Shape [n, H, W, channels].
        train_labels: int32 in 0..C-1. Shape [n].
        test_images: uint8, an array or streamed. Shape [m, H, W, channels].
        test_labels: int32 in 0..C-1. Shape [m].
        num_classes: C.
        mean: per channel, of images / 255.
        std: per channel, of images / 255.
    """

    name: str
    train_images: np.ndarray | Streamed
    train_labels: np.ndarray
    test_images: np.ndarray | Streamed
    test_labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int = 224,
    may_prepare: bool = True,
) -> Dataset:
    """Loads an image classification set.

    `digits` comes with scikit-learn. Any other set is looked for, in this order, as
    `DATA_DIR/<name>/`

    - IDX files, `train-images-idx3-ubyte[.gz]` and so on;
    - SVHN's MATLAB files, `train_32x32.mat`, `test_32x32.mat` and, if it is there,
      `extra_32x32.mat`, whose images are training images too;
    - for `cifar10` and `cifar100`, the `.bin` files of their binary version;
    - image folders, `train/<class>/*.jpg` (`.jpeg`, `.png`) and `test/<class>/` or
      `val/<class>/`, streamed: decoded when they are used, never all in memory; links
      among them must stay in the data folder;

    then as a TFDS set prepared in array_record or parquet; and as a TFDS set that TFDS
    can prepare now, which takes a named data folder, TensorFlow and a network. It is
    streamed if its images vary in shape. Streamed images are normalised by ImageNet's
    statistics, others by their own, or as is usual. None is augmented.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1442, 8, 8, 1), (355, 8, 8, 1), 10)

    Args:
        name: `digits`, `mnist`, `fashion_mnist`, `svhn`, `cifar10`, `cifar100`, a
            folder's name, or TFDS's name of another set.
        data_dir: the data folder. By default the environment's FKJAX_DATA_DIR, else
            its TFDS_DATA_DIR, else none: then sets already prepared in TFDS's own
            default folder are read, and none is prepared.
        image_size: height and width to which streamed images are resized.
        may_prepare: whether TFDS may download and prepare a set that is not there.

    Returns:
        The validated dataset.

    Raises:
        UserError: if there is no such set, or it is not here and cannot be
            prepared, or its files are damaged, or it is no image classification set.
            Streamed images that are damaged are told when they are used; see
            `fkjax.data.reading.plain_errors`.
    """
    if name == "digits":
        return _load_digits()
    chosen = (
        data_dir or os.environ.get("FKJAX_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    )
    folder = _data_folder(os.fspath(chosen)) if chosen else None
    if folder is not None and re.fullmatch(r"\w[\w.-]*", name):
        try:
            found = _read_files(name, folder / name, image_size)
        except OSError as error:  # not of reading a file, but of looking for one
            raise UserError(
                f"{folder / name} could not be searched ({error.strerror}); mend it, "
                "or name another folder or set"
            ) from error
        if found is not None:
            return found
    if name == "svhn":
        place = f"{folder}/svhn" if folder else "the data folder, which is not named"
        raise UserError(
            f"svhn is not in {place}: give --data-dir=DIR where DIR/svhn holds "
            "train_32x32.mat and test_32x32.mat, or take TFDS's --dataset=svhn_cropped"
        )
    if not re.fullmatch(r"[a-z0-9_]+(/[\w.-]+)?(:\d[\w.]*)?", name):
        raise unknown_name(name, folder)
    found = load_tfds(name, folder, image_size=image_size, may_prepare=may_prepare)
    return _dataset(name, *found)


def validate(dataset: Dataset) -> None:
    """Checks that a dataset's arrays are what `Dataset` says.

    Args:
        dataset: the dataset to check.

    Raises:
        UserError: naming the part, and the first example that is wrong.
    """
    if dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} class(es); "
            "classification needs at least 2"
        )
    train, test = dataset.train_images, dataset.test_images
    for part, images, labels in (
        ("training", train, dataset.train_labels),
        ("test", test, dataset.test_labels),
    ):
        try:
            _check_part(images, labels, dataset.num_classes)
        except UserError as error:
            raise UserError(f"{dataset.name}'s {part} part: {error}") from None
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"{dataset.name}'s training images have shape {train.shape[1:]} and its "
            f"test images {test.shape[1:]}; give both one shape"
        )


def _data_folder(path: str) -> Path:
    """It need not exist: TFDS may be asked to make it."""
    folder = Path(path)
    try:
        folder = folder.expanduser()
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return folder
    except (OSError, RuntimeError, ValueError) as error:  # of ~nobody, of a NUL
        raise UserError(
            f"the data folder {path} could not be opened ({error}); name another"
        ) from error
    if not stat.S_ISDIR(mode):
        raise UserError(f"the data folder {folder} is a file; name a folder")
    return folder


def _read_files(name: str, folder: Path, image_size: int) -> Dataset | None:
    """Reads a set that is there as files of its own, or None."""
    if has_idx(folder):
        num_classes = _NUM_CLASSES.get(name)
        return _dataset(name, *read_folder(folder, num_classes=num_classes))
    if has_svhn(folder):
        return _dataset(name, read_svhn(folder), _SVHN_CLASSES)
    if has_cifar(name, folder):
        return _dataset(name, *read_cifar(name, folder))
    if is_image_folder(folder):
        return _dataset(name, *read_image_folder(folder, image_size=image_size))
    return None


def _dataset(name: str, arrays: Sequence[Any], num_classes: int) -> Dataset:
    dataset = Dataset(name, *arrays, num_classes=num_classes, mean=(), std=())
    validate(dataset)
    if isinstance(dataset.train_images, Streamed):
        mean, std = STREAMED_STATISTICS[dataset.train_images.shape[-1]]
    else:
        own = _NORMALISATION.get(name.split(":")[0])
        mean, std = own or channel_statistics(dataset.train_images)
    return dataset._replace(
        train_labels=dataset.train_labels.astype(np.int32),
        test_labels=dataset.test_labels.astype(np.int32),
        mean=mean,
        std=std,
    )


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target
    test = np.concatenate([np.flatnonzero(labels == c)[4::5] for c in range(10)])
    test.sort()
    train = np.setdiff1d(np.arange(len(labels)), test)
    arrays = (images[train], labels[train], images[test], labels[test])
    return _dataset("digits", arrays, num_classes=10)


def _check_part(
    images: np.ndarray | Streamed, labels: np.ndarray, num_classes: int
) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"images have shape {images.shape}; expected [n, height, width, channels], "
            "none of them 0"
        )
    if isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        if len(bad):
            raise UserError(
                f"{len(bad)} image(s) hold NaN or infinite pixels, the first at index "
                f"{bad[0]}; remove or mend them"
            )
    if images.dtype != np.uint8:
        raise UserError(
            f"images have dtype {images.dtype}; expected uint8: scale them to 0..255 "
            "and round"
        )
    if labels.shape != (len(images),):
        raise UserError(
            f"labels have shape {labels.shape}; expected one for each of the "
            f"{len(images)} images"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels have dtype {labels.dtype}; expected integers")
    for i in np.flatnonzero((labels < 0) | (labels >= num_classes))[:1]:
        raise UserError(
            f"label {i} is {labels[i]}; expected 0 to {num_classes - 1}: mend it"
        )


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images / 255."""
    count = math.prod(images.shape[:3])
    # Exact integer sums, without a second copy of the images in a wider type.
    first = np.einsum("nhwc->c", images, dtype=np.uint64) / count
    second = np.einsum("nhwc,nhwc->c", images, images, dtype=np.uint64) / count
    # At least one grey level, so that constant images do not divide by zero.
    std = np.maximum(np.sqrt(np.maximum(second - first**2, 0)), 1)
    return tuple((first / 255).tolist()), tuple((std / 255).tolist())
