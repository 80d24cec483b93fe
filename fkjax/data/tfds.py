"""Datasets of TensorFlow Datasets (TFDS), prepared already or prepared when loaded."""

import contextlib
import difflib
import importlib.util
import io
import json
import math
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.data.decoding import decode
from fkjax.data.reading import stream_in_parallel
from fkjax.files.opening import MAX_BYTES, open_file
from fkjax.parallel.examples import Streamed

_DOWNLOAD_HOST = "https://storage.googleapis.com"
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_PATIENCE = 5.0  # timeout of the download host, in seconds


def _tfds() -> Any:
    """Imports TFDS, which takes half a second and is not needed by most runs."""
    import tensorflow_datasets

    return tensorflow_datasets


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the log of absl and the output of TFDS."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def unknown_name(name: str, folder: Path | None) -> UserError:
    """Returns the error for an unknown dataset, with a hint.

    If the folder of the dataset exists, the hint says which files it needs; otherwise,
    the hint is the most similar name of a known dataset.
    """
    if folder is not None and re.fullmatch(r"\w[\w.-]*", name):
        if (folder / name).is_dir():
            return UserError(
                f"{folder / name} contains no dataset that fkjax reads, and TFDS has "
                f"no {name!r}; add IDX files, or image folders train/<class>/ and "
                "test/<class>/"
            )
    # Community datasets are left out: listing them takes network access.
    known = {"digits", *_tfds().list_builders(with_community_datasets=False)}
    close = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "try 'digits' or 'mnist'"
    return UserError(f"dataset {name!r} is unknown; {hint}")


def load_tfds(
    name: str, folder: Path | None, *, image_size: int, may_prepare: bool = True
) -> tuple[list[Any], int]:
    """Reads a dataset of TFDS, and prepares it if needed.

    A prepared dataset must be in array_record or parquet. If the images vary in shape,
    they are streamed, that is, decoded and resized when they are used (see
    `fkjax.data.decoding.decode`). Then only the labels are read at once, which reads
    each record from disk.

    Args:
        name: name of the dataset in TFDS.
        folder: data folder; None for the default folder of TFDS.
        image_size: height and width, S, of images that vary in shape.
        may_prepare: whether to download and prepare a dataset that is not prepared.

    Returns:
        The training images and their labels, the test images and their labels; and the
        number of classes, C. The test part is `test`, or `validation` if there is no
        `test` with labels.

    Raises:
        UserError: if there is no such dataset, it cannot be read or prepared, or it is
            not an image classification dataset.
    """
    tfds = _tfds()
    with _quiet():
        try:
            _check_description(folder or Path(tfds.core.constants.DATA_DIR), name)
            builder = tfds.builder(name, data_dir=folder)
            features, is_prepared = builder.info.features, builder.is_prepared()
        except UserError:
            raise
        except tfds.core.DatasetNotFoundError:
            raise unknown_name(name, folder) from None
        except Exception as error:  # TFDS raises many kinds of errors
            raise _tfds_error(name, "open", error) from error
        shape, num_classes = _shape_and_classes(name, features)
        if not is_prepared:
            if not may_prepare:
                place = folder or "the default folder of TFDS"
                raise UserError(
                    f"{name} is not in {place}; give the folder that contains it"
                )
            _prepare(builder, name, folder)
        parts = list(builder.info.splits)
        _check_places(builder, name)
        tests = [part for part in ("test", "validation") if part in parts]
        if "train" not in parts or not tests:
            raise UserError(
                f"{name} of TFDS has the parts {', '.join(parts)}; fkjax needs 'train' "
                "and one of 'test' and 'validation': choose another dataset"
            )
        if None in shape:
            size = (image_size, image_size, shape[-1])

            def read(part: str) -> tuple[Any, np.ndarray]:
                return _streamed_part(builder, name, part, size)
        else:

            def read(part: str) -> tuple[Any, np.ndarray]:
                return _part(builder, name, part, shape)

        train, test = read("train"), read(tests[0])
        if len(tests) > 1 and (test[1] < 0).all():  # without labels, as in ImageNet
            test = read(tests[1])
    return [*train, *test], num_classes


def _check_description(folder: Path, name: str) -> None:
    """Raises an error if a description names a Python class outside of TFDS.

    TFDS would import it, and a file could thereby run any code.
    """
    home = folder / re.split("[/:]", name)[0]
    for file in ("dataset_info.json", "features.json"):
        for path in sorted((*home.glob(f"*/{file}"), *home.glob(f"*/*/{file}"))):
            with open_file(path) as opened:  # fails for a pipe, where TFDS would hang
                text = opened.read()
            try:
                description = json.loads(text)
            except (ValueError, RecursionError):
                continue  # TFDS raises an error for it
            for code in _classes(description):
                if not code.startswith("tensorflow_datasets."):
                    raise UserError(
                        f"{path} names the Python class {code}, which is not part of "
                        "TFDS; prepare the dataset with the features of TFDS"
                    )


def _classes(description: Any) -> Iterator[str]:
    """Yields the names of Python classes in a parsed JSON file."""
    if isinstance(description, list):
        for item in description:
            yield from _classes(item)
    elif isinstance(description, dict):
        for key, item in description.items():
            if isinstance(item, str) and key in _CLASS_KEYS:
                yield item
            yield from _classes(item)


def _check_places(builder: Any, name: str) -> None:
    """Raises an error if the description names files outside the dataset's folder."""
    try:
        splits = builder.info.splits.values()
        paths = [os.path.abspath(path) for part in splits for path in part.filepaths]
    except Exception as error:  # as above
        raise _tfds_error(name, "open", error) from error
    home = os.path.abspath(builder.data_dir)
    for path in paths:
        if os.path.dirname(path) != home:
            raise UserError(
                f"{name} of TFDS names {path}, which is not in its folder {home}; "
                "prepare it again"
            )


def _part(
    builder: Any, name: str, part: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    size = builder.info.splits[part].num_examples
    if size < 1:
        raise UserError(
            f"{name} of TFDS has {size} examples in its part {part}; prepare it again"
        )
    if (num_bytes := size * math.prod(shape)) > MAX_BYTES:
        raise UserError(
            f"{name} of TFDS takes {num_bytes} bytes of memory, more than the maximum "
            f"of {MAX_BYTES}; choose a smaller dataset"
        )
    images = np.zeros((size, *shape), np.uint8)
    labels = np.zeros(size, np.int64)
    try:
        for i, example in enumerate(builder.as_data_source(split=part)):
            images[i], labels[i] = example["image"], example["label"]
    except Exception as error:  # as above
        raise _tfds_error(name, "read", error) from error
    return images, labels


def _streamed_part(
    builder: Any, name: str, part: str, shape: tuple[int, int, int]
) -> tuple[Streamed, np.ndarray]:
    decoders = {"image": _tfds().decode.SkipDecoding()}  # gives the encoded file
    try:
        source = builder.as_data_source(split=part, decoders=decoders)
        labels = np.array([example["label"] for example in source], np.int64)
    except Exception as error:  # as above
        raise _tfds_error(name, "read", error) from error

    def read_one(i: int) -> np.ndarray:
        try:
            file = io.BytesIO(source[i]["image"])
        except Exception as error:  # as above
            raise _tfds_error(name, "read", error) from error
        what = f"example {i} of the part {part} of {name} of TFDS"
        return decode(file, what, image_size=shape[0], channels=shape[2])

    return stream_in_parallel(read_one, len(labels), shape), labels


def _shape_and_classes(name: str, features: Any) -> tuple[tuple[Any, ...], int]:
    """Returns the image shape, with None for what varies, and the number of classes."""
    try:
        image, label = features["image"], features["label"]
        shape, num_classes = image.shape, label.num_classes
        is_image = image.np_dtype == np.uint8 and len(shape) == 3
    except (AttributeError, KeyError, TypeError):
        shape, num_classes, is_image = (None,), None, False
    if not is_image or num_classes is None:
        raise UserError(
            f"{name} of TFDS is not an image classification dataset: fkjax needs a "
            "uint8 feature 'image' and a class feature 'label'; choose another dataset"
        )
    if None in shape and shape[-1] not in (1, 3):
        raise UserError(
            f"{name} of TFDS has images of varying shape with {shape[-1]} channels, "
            "but fkjax only resizes images with 1 or 3; choose another dataset"
        )
    return shape, num_classes


def _prepare(builder: Any, name: str, folder: Path | None) -> None:
    obstacles = []
    if folder is None:
        obstacles.append("no data folder is given")
    if importlib.util.find_spec("tensorflow") is None:
        obstacles.append("TensorFlow is missing (pip install 'fkjax[tfds]')")
    if not _answers(_DOWNLOAD_HOST):
        obstacles.append(f"there is no network ({_DOWNLOAD_HOST} does not answer)")
    if obstacles:
        place = f"in {folder}" if folder else "in the default folder of TFDS"
        raise UserError(
            f"{name} is not {place} and TFDS cannot prepare it, because "
            f"{' and '.join(obstacles)}: give --data-dir=DIR where DIR/{name} contains "
            "the four IDX files (train-images-idx3-ubyte.gz, ...) or a prepared TFDS "
            "dataset, or use --dataset=digits, which needs neither"
        )
    try:
        _tfds().disable_progress_bar()
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # TFDS raises many kinds of errors
        raise _tfds_error(name, "prepare", error) from error


def _tfds_error(name: str, verb: str, error: Exception) -> UserError:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"TFDS could not {verb} {name} ({first_line}); give a --data-dir that contains "
        "it prepared as array_record, or use --dataset=digits"
    )


def _answers(url: str) -> bool:
    """Returns whether a host answers within `_PATIENCE` seconds, even with an error."""
    answers = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=_PATIENCE):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)
        except (OSError, ValueError):
            pass

    # In a thread, because the lookup of a host name has no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(answers)
