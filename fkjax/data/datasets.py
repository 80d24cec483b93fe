"""Image classification datasets by name: scikit-learn, files, image folders, TFDS.

No file is written outside a folder that the user has given.
"""

import math
import os
import re
import stat
from collections.abc import Callable, Sequence
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
"""Mean and standard deviation of ImageNet, by the number of channels.

Used for streamed images, whose own statistics would require reading all of them.
"""


class Dataset(NamedTuple):
    """A dataset with n training images and m test images of C classes.

    Attributes:
        name: name of the dataset in `load`.
        train_images: training images, an array or streamed. Shape [n, H, W, channels]
            uint8.
        train_labels: training labels in 0..C-1. Shape [n] int32.
        test_images: test images, an array or streamed. Shape [m, H, W, channels] uint8.
        test_labels: test labels in 0..C-1. Shape [m] int32.
        num_classes: number of classes, C.
        mean: mean of each channel of images / 255.
        std: standard deviation of each channel of images / 255.
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
    follow_links: bool = False,
    notify: Callable[[str], object] | None = None,
) -> Dataset:
    """Loads an image classification dataset.

    `digits` is part of scikit-learn. For any other name, the folder `DATA_DIR/<name>/`
    is searched for, in this order,

    - IDX files, such as `train-images-idx3-ubyte[.gz]`;
    - MATLAB files of SVHN, `train_32x32.mat`, `test_32x32.mat` and, optionally,
      `extra_32x32.mat`, whose images are also used as training images;
    - for `cifar10` and `cifar100`, the `.bin` files of their binary version;
    - image folders, `train/<class>/*.jpg` (or another of
      `fkjax.data.decoding.SUFFIXES`) and `test/<class>/` or `val/<class>/`. The images
      are streamed, that is, decoded when they are used and never all in memory. Links
      in the folders must stay in the data folder, except with `follow_links`.

    Otherwise, a TFDS dataset prepared in array_record or parquet is read, or TFDS
    prepares the dataset, which requires a data folder, TensorFlow and network access.
    It is streamed if its images vary in shape.

    Streamed images are normalized by the statistics of ImageNet, others by their own or
    by the customary ones. Images are not augmented.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1442, 8, 8, 1), (355, 8, 8, 1), 10)

    Args:
        name: `digits`, `mnist`, `fashion_mnist`, `svhn`, `cifar10`, `cifar100`, the
            name of a folder, or the name of a TFDS dataset.
        data_dir: data folder. By default, the environment variable FKJAX_DATA_DIR or
            TFDS_DATA_DIR. If neither is set, datasets that are already prepared in the
            default folder of TFDS are read, but none is prepared.
        image_size: height and width to which streamed images are resized.
        may_prepare: whether TFDS may download and prepare a missing dataset.
        follow_links: whether links in image folders may lead out of the data folder.
        notify: function called with a sentence if images in the folder are not used.

    Returns:
        The dataset, after validation.

    Raises:
        UserError: if there is no such dataset, it is missing and cannot be prepared,
            its files are damaged, or it is not an image classification dataset.
            Damaged images that are streamed raise the error when they are used; see
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
            found = _read_files(name, folder / name, image_size, follow_links, notify)
        except OSError as error:  # raised by the search for files, not by reading them
            raise UserError(
                f"{folder / name} could not be searched ({error.strerror}); fix it, or "
                "give another folder or dataset"
            ) from error
        if found is not None:
            return found
    if name == "svhn":
        place = f"{folder}/svhn" if folder else "the data folder, which is not given"
        raise UserError(
            f"svhn is not in {place}: give --data-dir=DIR where DIR/svhn contains "
            "train_32x32.mat and test_32x32.mat, or use --dataset=svhn_cropped of TFDS"
        )
    if not re.fullmatch(r"[a-z0-9_]+(/[\w.-]+)?(:\d[\w.]*)?", name):
        raise unknown_name(name, folder)
    found = load_tfds(name, folder, image_size=image_size, may_prepare=may_prepare)
    return _dataset(name, *found)


def validate(dataset: Dataset) -> None:
    """Checks the shapes, types and values of a dataset.

    Args:
        dataset: the dataset to check.

    Raises:
        UserError: if an array is invalid. The message names the part of the dataset and
            the first invalid example.
    """
    if dataset.num_classes < 2:
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} class(es), but classification "
            "needs at least 2"
        )
    train, test = dataset.train_images, dataset.test_images
    for part, images, labels in (
        ("training", train, dataset.train_labels),
        ("test", test, dataset.test_labels),
    ):
        try:
            _check_part(images, labels, dataset.num_classes)
        except UserError as error:
            raise UserError(f"the {part} part of {dataset.name}: {error}") from None
    if train.shape[1:] != test.shape[1:]:
        raise UserError(
            f"the training images of {dataset.name} have shape {train.shape[1:]}, its "
            f"test images {test.shape[1:]}; give both the same shape"
        )


def _data_folder(path: str) -> Path:
    """Returns the data folder, which TFDS creates if it does not exist."""
    folder = Path(path)
    try:
        folder = folder.expanduser()
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return folder
    except (OSError, RuntimeError, ValueError) as error:  # unknown ~user, NUL in path
        raise UserError(
            f"the data folder {path} could not be opened ({error}); give another"
        ) from error
    if not stat.S_ISDIR(mode):
        raise UserError(f"the data folder {folder} is a file; give a folder")
    return folder


def _read_files(
    name: str,
    folder: Path,
    image_size: int,
    follow_links: bool,
    notify: Callable[[str], object] | None,
) -> Dataset | None:
    """Reads a dataset from files in its folder; returns None if there are none."""
    if has_idx(folder):
        num_classes = _NUM_CLASSES.get(name)
        return _dataset(name, *read_folder(folder, num_classes=num_classes))
    if has_svhn(folder):
        return _dataset(name, read_svhn(folder), _SVHN_CLASSES)
    if has_cifar(name, folder):
        return _dataset(name, *read_cifar(name, folder))
    if is_image_folder(folder):
        arrays, num_classes = read_image_folder(
            folder, image_size=image_size, follow_links=follow_links, notify=notify
        )
        return _dataset(name, arrays, num_classes)
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
            f"images have shape {images.shape}; expected [n, height, width, channels] "
            "without a 0"
        )
    if isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        if len(bad):
            raise UserError(
                f"{len(bad)} image(s) contain NaN or infinite pixels, the first at "
                f"index {bad[0]}; remove or fix them"
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
            f"label {i} is {labels[i]}; expected 0 to {num_classes - 1}: fix it"
        )


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation of each channel of images / 255."""
    count = math.prod(images.shape[:3])
    # Exact integer sums, without a copy of the images in a wider type.
    first = np.einsum("nhwc->c", images, dtype=np.uint64) / count
    second = np.einsum("nhwc,nhwc->c", images, images, dtype=np.uint64) / count
    # At least one gray level, so that constant images do not cause a division by zero.
    std = np.maximum(np.sqrt(np.maximum(second - first**2, 0)), 1)
    return tuple((first / 255).tolist()), tuple((std / 255).tolist())
