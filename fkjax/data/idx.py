"""IDX files, the format in which MNIST is published: a header followed by bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import MAX_BYTES, open_file, read_into, takes_too_much

_FILES = {
    "train_images": ("train-images-idx3-ubyte", 3),
    "train_labels": ("train-labels-idx1-ubyte", 1),
    "test_images": ("t10k-images-idx3-ubyte", 3),
    "test_labels": ("t10k-labels-idx1-ubyte", 1),
}


def has_idx(folder: Path) -> bool:
    """Returns whether a folder contains any of the four IDX files of a dataset."""
    return any(_find(folder, stem) for stem, _ in _FILES.values())


def read_folder(
    folder: Path, *, num_classes: int | None = None
) -> tuple[list[np.ndarray], int]:
    """Reads the four IDX files of a dataset.

    Args:
        folder: folder of the files, such as `train-images-idx3-ubyte[.gz]`. If a file
            exists both compressed and uncompressed, the uncompressed one is read.
        num_classes: number of classes, C; by default the largest training label + 1.

    Returns:
        The training images, of shape [n, H, W, 1], their labels, of shape [n], the test
        images and their labels, all of type uint8; and the number of classes, C.

    Raises:
        UserError: if a file is missing or damaged. The message names it.
    """
    paths, arrays = {}, {}
    for part, (stem, num_dims) in _FILES.items():
        path = _find(folder, stem)
        if path is None:
            raise UserError(
                f"{folder} contains IDX files but neither {stem} nor {stem}.gz; add it"
            )
        paths[part], arrays[part] = path, read_idx(path, num_dims=num_dims)
    if num_classes is None:
        num_classes = int(arrays["train_labels"].max(initial=0)) + 1
    for part in ("train", "test"):
        labels, path = arrays[f"{part}_labels"], paths[f"{part}_labels"]
        if len(labels) != (count := len(arrays[f"{part}_images"])):
            raise UserError(
                f"{path} contains {len(labels)} labels for the {count} images of "
                f"{paths[f'{part}_images']}; use files of the same dataset"
            )
        for i in np.flatnonzero(labels >= num_classes)[:1]:
            raise UserError(
                f"{path} contains label {labels[i]} at position {i}, but {folder.name} "
                f"has classes 0 to {num_classes - 1}; replace it by an undamaged copy"
            )
        arrays[f"{part}_images"] = arrays[f"{part}_images"][..., None]
    return list(arrays.values()), num_classes


def read_idx(path: Path, *, num_dims: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        num_dims: expected number of axes.

    Returns:
        The array of type uint8, whose shape is given in the header of the file.

    Raises:
        UserError: if the file cannot be read, is not an IDX file of bytes with this
            number of axes, or has the wrong size.
    """
    magic, advice = bytes([0, 0, 8, num_dims]), "replace it by an undamaged copy"
    try:
        with open_file(path) as file:
            stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            header = stream.read(4 + 4 * num_dims)
            if header[:4] != magic:
                raise UserError(
                    f"{path} starts with 0x{header[:4].hex()}, but an IDX file of "
                    f"bytes with {num_dims} axes starts with 0x{magic.hex()}; {advice}"
                )
            if len(header) < 4 + 4 * num_dims:
                raise UserError(f"{path} ends within its header; {advice}")
            shape = tuple(np.frombuffer(header, ">u4", offset=4).tolist())
            size = math.prod(shape)
            if takes_too_much(shape, np.dtype(np.uint8)):
                raise UserError(
                    f"{path} declares the shape {shape}, more than the maximum of "
                    f"{MAX_BYTES} bytes; {advice}"
                )
            array = np.empty(size, np.uint8)
            num_bytes = read_into(stream, array)
            num_bytes += len(stream.read(1))
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise UserError(f"{path} could not be read ({error}); {advice}") from error
    if num_bytes != size:
        found = f"only {num_bytes} follow" if num_bytes < size else "more follow"
        raise UserError(f"{path} declares {size} bytes and {found}; {advice}")
    return array.reshape(shape)


def _find(folder: Path, stem: str) -> Path | None:
    paths = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in paths if path.exists()), None)
