import hashlib
import subprocess
import sys

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.data import datasets
from fkjax.data.datasets import Dataset, load

# digits


def test_digits_holds_every_example_once(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    ours = sorted((c, image.tobytes()) for c, image in zip(labels, images, strict=True))
    scaled = (source.images * 255 / 16 + 0.5).astype(np.uint8)
    theirs = [
        (c, image.tobytes()) for c, image in zip(source.target, scaled, strict=True)
    ]
    assert ours == sorted(theirs)
    assert images.dtype == np.uint8 and images.max() == 255


def test_digits_test_part_is_a_fifth_of_each_class(digits):
    train = np.bincount(digits.train_labels)
    test = np.bincount(digits.test_labels)
    np.testing.assert_array_equal(test, (train + test) // 5)


def test_normalisation_is_numpys(digits):
    scaled = digits.train_images / 255
    np.testing.assert_allclose(digits.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(digits.std, scaled.std((0, 1, 2)), rtol=1e-9)


def test_constant_images_have_a_positive_std():
    mean, std = datasets.channel_statistics(np.full((3, 2, 2, 2), 7, np.uint8))
    np.testing.assert_allclose(mean, [7 / 255] * 2)
    assert min(std) > 0


# MNIST as published


def test_mnist_is_the_published_one(mnist, mnist_dir):
    assert mnist.train_images.shape == (60_000, 28, 28, 1)
    assert mnist.test_images.shape == (10_000, 28, 28, 1)
    assert (mnist.num_classes, mnist.mean, mnist.std) == (10, (0.1307,), (0.3081,))
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    unpacked = header + mnist.train_images.tobytes()
    assert hashlib.md5(unpacked).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    np.testing.assert_allclose(
        datasets.channel_statistics(mnist.train_images), [[0.1307], [0.3081]], atol=5e-5
    )


# validate


def part(size):
    return np.zeros((size, 1, 1, 1), np.uint8), np.arange(size) % 2


VALID = Dataset("toy", *part(10), *part(4), 2, (0.0,), (1.0,))
NAN_IMAGES = np.zeros((10, 1, 1, 1), np.float32)
NAN_IMAGES[[6, 8]] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": NAN_IMAGES}, "training part of toy: 2 .* at index 6"),
        ({"train_images": np.zeros((10, 1, 1, 1))}, "float64; expected uint8"),
        ({"train_images": np.zeros((10, 1, 1), np.uint8)}, r"\(10, 1, 1\); expected"),
        ({"train_images": np.zeros((9, 1, 1, 1), np.uint8)}, "of the 9 images"),
        ({"test_images": np.zeros((4, 2, 1, 1), np.uint8)}, "both the same shape"),
        ({"test_labels": np.array([0, 1, 2, 1])}, "test part of toy: label 2 is 2"),
        ({"test_labels": np.array([0, -1, 0, 1])}, "label 1 is -1"),
        ({"test_labels": np.zeros(4)}, "float64; expected integers"),
        ({"num_classes": 1}, "at least 2"),
    ],
)
def test_invalid_arrays_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        datasets.validate(VALID._replace(**changes))


def test_valid_arrays_pass():
    datasets.validate(VALID)


def test_a_data_folder_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(UserError, match="is a file; give a folder"):
        load("mnist", data_dir=path)


def test_import_is_light():
    code = (
        "import sys, fkjax.data.datasets; print(set(sys.modules)"
        " & {'tensorflow_datasets', 'tensorflow', 'sklearn', 'scipy.io', 'PIL'})"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
