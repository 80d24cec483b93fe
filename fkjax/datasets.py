"""Image classification sets as arrays, their splits, and biased pools.

`load` finds a set in scikit-learn, in IDX files or in TFDS, and `split` cuts its
training part into pool, validation and tuning. Nothing is ever written outside a
folder that the user named.
"""

import contextlib
import difflib
import gzip
import importlib.util
import io
import math
import os
import re
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fkjax.base import UserError, key_for

_IDX_FILES = {
    "train_images": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test_images": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}
_NUM_CLASSES = {"mnist": 10, "fashion_mnist": 10}
_NORMALISATION = {"mnist": ((0.1307,), (0.3081,))}
_MAX_BYTES = 4 << 30
_DOWNLOAD_HOST = "https://storage.googleapis.com"
_PATIENCE = 5.0  # seconds that the download host has to answer


class DatasetError(UserError):
    """A dataset, or what is asked of it, that cannot be used as it is."""


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


class Split(NamedTuple):
    """Some examples of a dataset, by ascending id.

    Attributes:
        images: uint8. Shape [n, H, W, channels].
        labels: int32. Shape [n].
        ids: int32 row in the dataset's training (or test) part. Shape [n].
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class Splits(NamedTuple):
    """What an experiment works on; the first three are disjoint training rows."""

    pool: Split
    validation: Split
    tuning: Split
    test: Split
    num_classes: int


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
        DatasetError: if there is no such set, or it is not here and cannot be
            prepared, or its files are damaged, or it is no image classification set.
    """
    if name == "digits":
        return _load_digits()
    chosen = (
        data_dir or os.environ.get("FKJAX_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    )
    folder = Path(chosen).expanduser() if chosen else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise DatasetError(f"the data folder {folder} is a file; name a folder")
    if not re.fullmatch(r"[a-z0-9_]+(/[\w.-]+)?(:\d[\w.]*)?", name):
        raise _unknown_name(name)
    if folder is not None and any(
        _idx_path(folder / name, stem) for stem, _ in _IDX_FILES.values()
    ):
        return _load_idx(name, folder / name)
    return _load_tfds(name, folder)


def validate(dataset: Dataset) -> None:
    """Checks that a dataset's arrays are what `Dataset` says.

    Args:
        dataset: the dataset to check.

    Raises:
        DatasetError: naming the part, and the first example that is wrong.
    """
    if dataset.num_classes < 2:
        raise DatasetError(
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
        except DatasetError as error:
            raise DatasetError(f"{dataset.name}'s {part} part: {error}") from None
    if train.shape[1:] != test.shape[1:]:
        raise DatasetError(
            f"{dataset.name}'s training images have shape {train.shape[1:]} and its "
            f"test images {test.shape[1:]}; give both one shape"
        )


def split(
    key: jax.Array,
    dataset: Dataset,
    *,
    validation_size: int,
    tuning_size: int = 0,
    imbalance: str = "step",
    imbalance_ratio: float = 1.0,
    rare_classes: Sequence[int] | None = None,
) -> Splits:
    """Cuts a training part into a validation set, a tuning set and a biased pool.

    The validation set is class-balanced; the tuning set is held out of it and is
    class-balanced too; what remains is the pool, which is then biased (Gudovskiy et
    al. 2020, Sec. 4). Each draw depends on the key and its own purpose alone: the
    tuning size never moves the pool, and pools of one key and growing ratio are
    nested.

    >>> splits = split(jax.random.key(0), load("digits"), validation_size=200,
    ...                tuning_size=50, imbalance_ratio=10.0)
    >>> [len(part.ids) for part in splits[:4]]
    [685, 150, 50, 355]

    Args:
        key: the key of the run.
        dataset: what to split.
        validation_size: size of validation and tuning set together.
        tuning_size: how many of these make the tuning set.
        imbalance: `step` (see `step_imbalance`) or `long_tail` (see `long_tail`).
        imbalance_ratio: how much rarer the rare classes become; 1 leaves the pool be.
        rare_classes: the rare classes; by default those from C // 2 on.

    Returns:
        The splits, each in ascending order of id.

    Raises:
        DatasetError: if a class cannot supply its share, or would be left without an
            image in the pool, or an option is out of range.
    """
    if imbalance not in _IMBALANCES:
        raise DatasetError(
            f"imbalance {imbalance!r} is unknown; choose {' or '.join(_IMBALANCES)}"
        )
    if validation_size < 1:
        raise DatasetError(f"validation size {validation_size} must be at least 1")
    if not 0 <= tuning_size < validation_size:
        raise DatasetError(
            f"tuning size {tuning_size} must be at least 0 and below the validation "
            f"size, {validation_size}, which it is held out of"
        )
    labels, num_classes = dataset.train_labels, dataset.num_classes
    held_out = balanced_subset(
        key_for(key, "validation split"), labels, validation_size, num_classes
    )
    tuning = held_out[
        balanced_subset(
            key_for(key, "tuning split"), labels[held_out], tuning_size, num_classes
        )
    ]
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    kept = _IMBALANCES[imbalance](
        key_for(key, "imbalance"),
        labels[rest],
        num_classes,
        ratio=imbalance_ratio,
        rare_classes=rare_classes,
    )

    def rows(ids: np.ndarray) -> Split:
        return Split(dataset.train_images[ids], labels[ids], ids.astype(np.int32))

    return Splits(
        pool=rows(rest[kept]),
        validation=rows(np.setdiff1d(held_out, tuning)),
        tuning=rows(tuning),
        test=Split(
            dataset.test_images,
            dataset.test_labels,
            np.arange(len(dataset.test_labels), dtype=np.int32),
        ),
        num_classes=num_classes,
    )


def balanced_subset(
    key: jax.Array, labels: np.ndarray, size: int, num_classes: int
) -> np.ndarray:
    """Draws equally many examples of each class; the first take a remainder.

    Args:
        key: decides which examples.
        labels: integers in 0..C-1. Shape [n].
        size: how many to draw.
        num_classes: C.

    Returns:
        Ascending positions in `labels`. Shape [size].

    Raises:
        DatasetError: if a class has too few examples.
    """
    quotas = size // num_classes + (np.arange(num_classes) < size % num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    for c in np.flatnonzero(counts < quotas):
        raise DatasetError(
            f"a balanced subset of {size} needs {quotas[c]} images of class {c}, which "
            f"has {counts[c]}; ask for at most {counts.min() * num_classes}"
        )
    return _keep(key, [(np.flatnonzero(labels == c), q) for c, q in enumerate(quotas)])


def step_imbalance(
    key: jax.Array,
    labels: np.ndarray,
    num_classes: int,
    *,
    ratio: float,
    rare_classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Thins the rare classes, all together, to (images of common classes) / ratio.

    Args:
        key: decides which images stay.
        labels: integers in 0..C-1. Shape [n].
        num_classes: C.
        ratio: at least 1; 1 keeps every image.
        rare_classes: by default those from C // 2 on.

    Returns:
        Ascending positions of the images that stay.

    Raises:
        DatasetError: if an option is out of range or a class is left empty.
    """
    is_rare = np.isin(labels, _rare(num_classes, ratio, rare_classes))
    rare, common = np.flatnonzero(is_rare), np.flatnonzero(~is_rare)
    num_kept = len(rare) if ratio == 1 else min(len(rare), round(len(common) / ratio))
    kept = _keep(key, [(common, len(common)), (rare, num_kept)])
    _check_no_class_empty(labels[kept], num_classes, ratio)
    return kept


def long_tail(
    key: jax.Array,
    labels: np.ndarray,
    num_classes: int,
    *,
    ratio: float,
    rare_classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Thins the class of rank i to n_max * ratio ** (-i / (C - 1)) images.

    n_max is the size of the largest class (Cui et al. 2019, Sec. 5.1). Classes rank in
    their natural order, except that rare classes, if given, come last. Arguments,
    result and errors are those of `step_imbalance`.
    """
    tail = _rare(num_classes, ratio, rare_classes)
    order = [c for c in range(num_classes) if c not in tail] + tail
    largest = int(np.bincount(labels, minlength=num_classes).max())
    quotas = [
        round(largest * ratio ** (-i / (num_classes - 1))) for i in range(len(order))
    ]
    kept = _keep(
        key,
        [(np.flatnonzero(labels == c), q) for c, q in zip(order, quotas, strict=True)],
    )
    _check_no_class_empty(labels[kept], num_classes, ratio)
    return kept


_IMBALANCES = {"step": step_imbalance, "long_tail": long_tail}


def read_idx(path: Path, *, num_dims: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        num_dims: how many axes it must have.

    Returns:
        uint8 array of the shape in the file's header.

    Raises:
        DatasetError: if the file is unreadable, or not exactly that.
    """
    magic, advice = bytes([0, 0, 8, num_dims]), "replace it by an intact copy"
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(4 + 4 * num_dims)
            if header[:4] != magic:
                raise DatasetError(
                    f"{path} begins with 0x{header[:4].hex()} where an IDX file of "
                    f"bytes with {num_dims} axes begins with 0x{magic.hex()}; {advice}"
                )
            if len(header) < 4 + 4 * num_dims:
                raise DatasetError(f"{path} ends within its header; {advice}")
            shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
            size = math.prod(shape)
            if size > _MAX_BYTES:
                raise DatasetError(
                    f"{path} declares {size} bytes, more than the {_MAX_BYTES} that "
                    f"fkjax takes; {advice}"
                )
            body = file.read(size + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DatasetError(f"{path} could not be read ({error}); {advice}") from error
    if len(body) != size:
        found = f"only {len(body)} follow" if len(body) < size else "more follow"
        raise DatasetError(f"{path} declares {size} bytes and {found}; {advice}")
    return np.frombuffer(body, np.uint8).reshape(shape)


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


def _idx_path(folder: Path, stem: str) -> Path | None:
    paths = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in paths if path.exists()), None)


def _load_idx(name: str, folder: Path) -> Dataset:
    paths, arrays = {}, {}
    for part, (stem, num_dims) in _IDX_FILES.items():
        path = _idx_path(folder, stem)
        if path is None:
            raise DatasetError(
                f"{folder} holds IDX files but neither {stem} nor {stem}.gz; add it"
            )
        paths[part], arrays[part] = path, read_idx(path, num_dims=num_dims)
    num_classes = _NUM_CLASSES.get(name)
    if num_classes is None:
        num_classes = int(arrays["train_labels"].max(initial=0)) + 1
    for part in ("train", "test"):
        labels, path = arrays[f"{part}_labels"], paths[f"{part}_labels"]
        if len(labels) != (count := len(arrays[f"{part}_images"])):
            raise DatasetError(
                f"{path} holds {len(labels)} labels for the {count} images of "
                f"{paths[f'{part}_images']}; take both files from one copy"
            )
        for i in np.flatnonzero(labels >= num_classes)[:1]:
            raise DatasetError(
                f"{path} holds label {labels[i]} at position {i} where {name} has "
                f"classes 0 to {num_classes - 1}; replace it by an intact copy"
            )
        arrays[f"{part}_images"] = arrays[f"{part}_images"][..., None]
    return _dataset(name, list(arrays.values()), num_classes)


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


def _unknown_name(name: str) -> DatasetError:
    # Community sets are left out: listing them asks the network.
    known = {"digits", *_tfds().list_builders(with_community_datasets=False)}
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "try 'digits' or 'mnist'"
    return DatasetError(f"dataset {name!r} is unknown; {hint}")


def _load_tfds(name: str, folder: Path | None) -> Dataset:
    tfds = _tfds()
    with _quiet():
        try:
            builder = tfds.builder(name, data_dir=folder)
            features = builder.info.features
        except tfds.core.DatasetNotFoundError:
            raise _unknown_name(name) from None
        except Exception as error:
            raise _tfds_error(name, "open", error) from error
        shape, num_classes = _shape_and_classes(name, features)
        if not builder.is_prepared():
            _prepare(builder, name, folder)
        sizes = {part: info.num_examples for part, info in builder.info.splits.items()}
        test = "test" if "test" in sizes else "validation"
        if "train" not in sizes or test not in sizes:
            raise DatasetError(
                f"TFDS's {name} has the parts {', '.join(sizes)}; fkjax needs 'train' "
                "and one of 'test' and 'validation': choose another set"
            )
        arrays = []
        for part in ("train", test):
            if (num_bytes := sizes[part] * math.prod(shape)) > _MAX_BYTES:
                raise DatasetError(
                    f"TFDS's {name} takes {num_bytes} bytes of memory, more than the "
                    f"{_MAX_BYTES} that fkjax takes; choose a smaller set"
                )
            images = np.zeros((sizes[part], *shape), np.uint8)
            labels = np.zeros(sizes[part], np.int64)
            try:
                for i, example in enumerate(builder.as_data_source(split=part)):
                    images[i], labels[i] = example["image"], example["label"]
            except Exception as error:
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
        raise DatasetError(
            f"TFDS's {name} is no image classification set: fkjax needs a uint8 "
            "feature 'image' and a class feature 'label'; choose another set"
        )
    if None in shape:
        raise DatasetError(
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
        raise DatasetError(
            f"{name} is not {place} and TFDS cannot prepare it, because "
            f"{' and '.join(obstacles)}: give --data-dir=DIR where DIR/{name} holds "
            f"the four IDX files ({_IDX_FILES['train_images'][0]}.gz, ...) or a "
            "prepared TFDS set, or take --dataset=digits, which needs neither"
        )
    try:
        _tfds().disable_progress_bar()
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        raise _tfds_error(name, "prepare", error) from error


def _tfds_error(name: str, verb: str, error: Exception) -> DatasetError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DatasetError(
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
        raise DatasetError(
            f"images have shape {images.shape}; expected [n, height, width, channels], "
            "none of them 0"
        )
    if np.issubdtype(images.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        if len(bad):
            raise DatasetError(
                f"{len(bad)} image(s) hold NaN or infinite pixels, the first at index "
                f"{bad[0]}; remove or mend them"
            )
    if images.dtype != np.uint8:
        raise DatasetError(
            f"images have dtype {images.dtype}; expected uint8: scale them to 0..255 "
            "and round"
        )
    if labels.shape != (len(images),):
        raise DatasetError(
            f"labels have shape {labels.shape}; expected one for each of the "
            f"{len(images)} images"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(f"labels have dtype {labels.dtype}; expected integers")
    for i in np.flatnonzero((labels < 0) | (labels >= num_classes))[:1]:
        raise DatasetError(
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


def _keep(key: jax.Array, groups: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Keeps a random `num` of each group of positions, in ascending order.

    Who ranks first does not depend on `num`: a smaller `num` keeps a subset.
    """
    size = 1 + max(positions.max(initial=-1) for positions, _ in groups)
    draws = np.asarray(jax.random.uniform(key, (int(size),)))
    kept = [
        positions[np.argsort(draws[positions], kind="stable")[:num]]
        for positions, num in groups
    ]
    return np.sort(np.concatenate(kept))


def _rare(
    num_classes: int, ratio: float, rare_classes: Sequence[int] | None
) -> list[int]:
    if not ratio >= 1:
        raise DatasetError(f"imbalance ratio {ratio:g} must be at least 1")
    if rare_classes is None:
        return list(range(num_classes // 2, num_classes))
    rare = list(dict.fromkeys(rare_classes))
    if unknown := [c for c in rare if c not in range(num_classes)]:
        raise DatasetError(
            f"rare class {unknown[0]} is unknown; classes are 0 to {num_classes - 1}"
        )
    if not 0 < len(rare) < num_classes:
        raise DatasetError(
            f"{len(rare)} of {num_classes} classes are rare; name at least 1 and at "
            f"most {num_classes - 1}"
        )
    return rare


def _check_no_class_empty(labels: np.ndarray, num_classes: int, ratio: float) -> None:
    counts = np.bincount(labels, minlength=num_classes)
    for c in np.flatnonzero(counts == 0):
        raise DatasetError(
            f"imbalance ratio {ratio:g} leaves class {c} without an image among the "
            f"pool's {len(labels)}; choose a smaller ratio or validation set"
        )
