"""Image classification sets as arrays, from scikit-learn, IDX files or TFDS.

Nothing is ever written outside a folder that the user named.
"""

import contextlib
import difflib
import importlib.util
import io
import math
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.idx import MAX_BYTES, has_idx, read_folder

_NUM_CLASSES = {"mnist": 10, "fashion_mnist": 10}
_NORMALISATION = {"mnist": ((0.1307,), (0.3081,))}
_DOWNLOAD_HOST = "https://storage.googleapis.com"
_PATIENCE = 5.0  # seconds that the download host has to answer


class Dataset(NamedTuple):
    """A training part and a test part of n images in C classes each.

    Attributes:
        name: the name that `load` knows it by.
        train_images: uint8. Shape [n, H, W, channels].
        train_labels: int32 in 0..C-1. Shape [n].
        test_images: uint8. Shape [m, H, W, channels].
        test_labels: int32 in 0..C-1. Shape [m].
        num_classes: C.
        mean: per channel, of images / 255.
        std: per channel, of images / 255.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a small image classification set.

    `digits` comes with scikit-learn. Any other set is looked for, in this order, as
    IDX files `DATA_DIR/<name>/train-images-idx3-ubyte[.gz]` and so on; as a TFDS set
    prepared in array_record or parquet; as a TFDS set that TFDS can prepare now,
    which takes a named data folder, TensorFlow and a network.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1442, 8, 8, 1), (355, 8, 8, 1), 10)

    Args:
        name: `digits`, `mnist`, `fashion_mnist`, or TFDS's name of another set.
        data_dir: the data folder. By default the environment's FKJAX_DATA_DIR, else
            its TFDS_DATA_DIR, else none: then sets already prepared in TFDS's own
            default folder are read, and none is prepared.

    Returns:
        The validated dataset.

    Raises:
        UserError: if there is no such set, or it is not here and cannot be
            prepared, or its files are damaged, or it is no image classification set.
    """
    if name == "digits":
        return _load_digits()
    chosen = (
        data_dir or os.environ.get("FKJAX_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    )
    folder = Path(chosen).expanduser() if chosen else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"the data folder {folder} is a file; name a folder")
    if not re.fullmatch(r"[a-z0-9_]+(/[\w.-]+)?(:\d[\w.]*)?", name):
        raise _unknown_name(name)
    if folder is not None and has_idx(folder / name):
        num_classes = _NUM_CLASSES.get(name)
        return _dataset(name, *read_folder(folder / name, num_classes=num_classes))
    return _load_tfds(name, folder)


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


def _dataset(name: str, arrays: Sequence[np.ndarray], num_classes: int) -> Dataset:
    dataset = Dataset(name, *arrays, num_classes=num_classes, mean=(), std=())
    validate(dataset)
    own = _NORMALISATION.get(name.split(":")[0])
    mean, std = own or _statistics(dataset.train_images)
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


def _tfds() -> Any:
    """Imports TFDS: half a second, and not needed by most runs."""
    import tensorflow_datasets

    return tensorflow_datasets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences absl's log and what TFDS prints."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _unknown_name(name: str) -> UserError:
    # Community sets are left out: listing them asks the network.
    known = {"digits", *_tfds().list_builders(with_community_datasets=False)}
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "try 'digits' or 'mnist'"
    return UserError(f"dataset {name!r} is unknown; {hint}")


def _load_tfds(name: str, folder: Path | None) -> Dataset:
    tfds = _tfds()
    with _quiet():
        try:
            builder = tfds.builder(name, data_dir=folder)
            features = builder.info.features
        except tfds.core.DatasetNotFoundError:
            raise _unknown_name(name) from None
        except Exception as error:  # TFDS raises errors of many kinds; each is told
            raise _tfds_error(name, "open", error) from error
        shape, num_classes = _shape_and_classes(name, features)
        if not builder.is_prepared():
            _prepare(builder, name, folder)
        sizes = {part: info.num_examples for part, info in builder.info.splits.items()}
        test = "test" if "test" in sizes else "validation"
        if "train" not in sizes or test not in sizes:
            raise UserError(
                f"TFDS's {name} has the parts {', '.join(sizes)}; fkjax needs 'train' "
                "and one of 'test' and 'validation': choose another set"
            )
        arrays = []
        for part in ("train", test):
            if (num_bytes := sizes[part] * math.prod(shape)) > MAX_BYTES:
                raise UserError(
                    f"TFDS's {name} takes {num_bytes} bytes of memory, more than the "
                    f"{MAX_BYTES} that fkjax takes; choose a smaller set"
                )
            images = np.zeros((sizes[part], *shape), np.uint8)
            labels = np.zeros(sizes[part], np.int64)
            try:
                for i, example in enumerate(builder.as_data_source(split=part)):
                    images[i], labels[i] = example["image"], example["label"]
            except Exception as error:  # as above
                raise _tfds_error(name, "read", error) from error
            arrays += [images, labels]
    return _dataset(name, arrays, num_classes)


def _shape_and_classes(name: str, features: Any) -> tuple[tuple[int, ...], int]:
    try:
        image, label = features["image"], features["label"]
        shape, num_classes = image.shape, label.num_classes
        is_image = image.np_dtype == np.uint8 and len(shape) == 3
    except (AttributeError, KeyError, TypeError):
        shape, num_classes, is_image = (), None, False
    if not is_image or num_classes is None:
        raise UserError(
            f"TFDS's {name} is no image classification set: fkjax needs a uint8 "
            "feature 'image' and a class feature 'label'; choose another set"
        )
    if None in shape:
        raise UserError(
            f"TFDS's {name} has images of varying shape, {shape}, and fkjax needs one "
            "shape; choose another set, or resize it into IDX files"
        )
    return shape, num_classes


def _prepare(builder: Any, name: str, folder: Path | None) -> None:
    obstacles = []
    if folder is None:
        obstacles.append("no data folder is named")
    if importlib.util.find_spec("tensorflow") is None:
        obstacles.append("TensorFlow is missing (pip install 'fkjax[tfds]')")
    if not _answers(_DOWNLOAD_HOST):
        obstacles.append(f"there is no network ({_DOWNLOAD_HOST} does not answer)")
    if obstacles:
        place = f"in {folder}" if folder else "in TFDS's default folder"
        raise UserError(
            f"{name} is not {place} and TFDS cannot prepare it, because "
            f"{' and '.join(obstacles)}: give --data-dir=DIR where DIR/{name} holds "
            "the four IDX files (train-images-idx3-ubyte.gz, ...) or a "
            "prepared TFDS set, or take --dataset=digits, which needs neither"
        )
    try:
        _tfds().disable_progress_bar()
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # TFDS raises errors of many kinds; each is told
        raise _tfds_error(name, "prepare", error) from error


def _tfds_error(name: str, verb: str, error: Exception) -> UserError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"TFDS could not {verb} {name} ({first_line}); give a --data-dir that holds it "
        "prepared as array_record, or take --dataset=digits"
    )


def _answers(url: str) -> bool:
    """Says within `_PATIENCE` seconds whether a host answers, if only to refuse."""
    answers = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=_PATIENCE):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError):
            pass

    # In a thread, because looking up a host name heeds no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(answers)


def _check_part(images: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"images have shape {images.shape}; expected [n, height, width, channels], "
            "none of them 0"
        )
    if np.issubdtype(images.dtype, np.floating):
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


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images / 255."""
    count = math.prod(images.shape[:3])
    # Exact integer sums, without a second copy of the images in a wider type.
    first = np.einsum("nhwc->c", images, dtype=np.uint64) / count
    second = np.einsum("nhwc,nhwc->c", images, images, dtype=np.uint64) / count
    # At least one grey level, so that constant images do not divide by zero.
    std = np.maximum(np.sqrt(np.maximum(second - first**2, 0)), 1)
    return tuple((first / 255).tolist()), tuple((std / 255).tolist())
