import gzip
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax.base import UserError
from fkjax.data.datasets import load
from fkjax.data.idx import read_idx

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def tiny_parts():
    rng = np.random.default_rng(3)
    return {
        TRAIN_IMAGES: rng.integers(0, 256, (30, 4, 5)),
        TRAIN_LABELS: np.arange(30) % 10,
        TEST_IMAGES: rng.integers(0, 256, (10, 4, 5)),
        TEST_LABELS: np.arange(10),
    }


@pytest.fixture
def tiny_mnist(tmp_path):
    """A data folder with 30 training and 10 test images of 4 x 5 pixels as mnist."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in tiny_parts().items():
        (folder / name).write_bytes(idx_bytes(array))
    return tmp_path


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["mnist", "my_own"])
def test_idx_files_come_back_as_written(tmp_path, suffix, name):
    (tmp_path / name).mkdir()
    for stem, array in tiny_parts().items():
        data = idx_bytes(array)
        path = tmp_path / name / (stem + suffix)
        path.write_bytes(gzip.compress(data) if suffix else data)
    dataset = load(name, data_dir=os.fspath(tmp_path))
    parts = tiny_parts()
    np.testing.assert_array_equal(dataset.train_images[..., 0], parts[TRAIN_IMAGES])
    np.testing.assert_array_equal(dataset.test_images[..., 0], parts[TEST_IMAGES])
    np.testing.assert_array_equal(dataset.train_labels, parts[TRAIN_LABELS])
    np.testing.assert_array_equal(dataset.test_labels, parts[TEST_LABELS])
    assert dataset.num_classes == 10
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32


HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 30])
BAD_FILES = {
    "wrong magic": (TRAIN_LABELS, b"\0\0\x09\x01" + HEADER[4:], "0x00000901.*0x000008"),
    "labels for images": (TRAIN_IMAGES, HEADER + bytes(30), "0x00000801.*0x00000803"),
    "empty": (TRAIN_LABELS, b"", "starts with 0x,"),
    "half a header": (TRAIN_LABELS, HEADER[:6], "ends within its header"),
    "truncated": (TRAIN_LABELS, HEADER + bytes(29), "declares 30 bytes and only 29"),
    "trailing": (TRAIN_LABELS, HEADER + bytes(31), "declares 30 bytes and more"),
    "bomb": (
        TRAIN_IMAGES,
        bytes([0, 0, 8, 3]) + b"\xff" * 12,
        "more than the maximum of 4294967296",
    ),
    "a flat bomb": (  # no bytes, but a shape that NumPy does not support
        TRAIN_IMAGES,
        bytes([0, 0, 8, 3]) + bytes(4) + b"\xff" * 8,
        r"declares the shape \(0, 4294967295, 4294967295\)",
    ),
    "count": (
        TRAIN_LABELS,
        HEADER[:7] + bytes([29]) + bytes(29),
        "29 labels for the 30 images of .*train-images",
    ),
    "label range": (
        TEST_LABELS,
        HEADER[:7] + bytes([10]) + bytes(7) + bytes([10, 11, 0]),
        "label 10 at position 7, but mnist has classes 0 to 9",
    ),
    "no images": (
        TRAIN_IMAGES,
        bytes([0, 0, 8, 3, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 4]),
        r"the training part of mnist: images have shape \(30, 0, 4, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_named(tiny_mnist, case, suffix):
    stem, data, message = BAD_FILES[case]
    (tiny_mnist / "mnist" / stem).unlink()
    path = tiny_mnist / "mnist" / (stem + suffix)
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(UserError, match=message) as caught:
        load("mnist", data_dir=tiny_mnist)
    assert case == "no images" or str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def corrupt_middle(data):
    return data[:200] + bytes(x ^ 255 for x in data[200:210]) + data[210:]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-9], lambda data: b"no gzip at all", corrupt_middle],
    ids=["cut short", "not gzip", "flipped bytes"],
)
def test_corrupt_gzip_is_named(tiny_mnist, damage):
    (tiny_mnist / "mnist" / TRAIN_IMAGES).unlink()
    path = tiny_mnist / "mnist" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damage(gzip.compress(idx_bytes(tiny_parts()[TRAIN_IMAGES]))))
    with pytest.raises(UserError, match="could not be read") as caught:
        load("mnist", data_dir=tiny_mnist)
    assert str(path) in str(caught.value)


def test_gzip_is_read_no_further_than_its_header_says(tmp_path):
    # The 30 declared bytes are followed by 8 MiB that are truncated: reading them to
    # the end would raise another error.
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(HEADER + bytes(8 << 20), compresslevel=1)[:-20])
    with pytest.raises(UserError, match="declares 30 bytes and more follow"):
        read_idx(path, num_dims=1)


def test_a_pipe_is_not_waited_for(tiny_mnist):
    (tiny_mnist / "mnist" / TRAIN_LABELS).unlink()
    os.mkfifo(tiny_mnist / "mnist" / TRAIN_LABELS)
    with pytest.raises(UserError, match=f"{TRAIN_LABELS} .*not a regular file"):
        load("mnist", data_dir=tiny_mnist)


def test_missing_idx_file_is_named(tiny_mnist):
    (tiny_mnist / "mnist" / TEST_LABELS).unlink()
    with pytest.raises(UserError, match=f"neither {TEST_LABELS} nor"):
        load("mnist", data_dir=tiny_mnist)


def test_own_idx_set_takes_its_classes_from_training(tiny_mnist):
    (tiny_mnist / "mnist").rename(tiny_mnist / "own")
    labels = np.arange(30) % 3
    (tiny_mnist / "own" / TRAIN_LABELS).write_bytes(idx_bytes(labels))
    with pytest.raises(UserError, match="label 3 at position 3, but own has"):
        load("own", data_dir=tiny_mnist)


@given(data=st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_bytes_parse_or_raise_dataset_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    try:
        array = read_idx(path, num_dims=1)
    except UserError:
        return
    assert idx_bytes(array) == data
