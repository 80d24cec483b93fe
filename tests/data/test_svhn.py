import numpy as np
import pytest
import scipy.io

from fkjax.base import UserError
from fkjax.data.datasets import load
from fkjax.data.svhn import has_svhn


def part(size, seed):
    """Returns images [n, 32, 32, 3] and digits [n]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(size, dtype=np.uint8) % 10


def write(path, images, digits, **others):
    """Writes a file of SVHN: the last axis is the examples, and 10 is the digit 0."""
    labels = np.where(digits == 0, 10, digits).astype(np.uint8)
    variables = {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]}
    scipy.io.savemat(path, variables | others, do_compression=True)


PARTS = {"train": part(20, 0), "extra": part(13, 1), "test": part(11, 2)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "svhn"
    folder.mkdir()
    for name, (images, digits) in PARTS.items():
        write(folder / f"{name}_32x32.mat", images, digits)
    return folder


@pytest.mark.parametrize("with_extra", [True, False])
def test_published_files_are_read(folder, with_extra):
    if not with_extra:
        (folder / "extra_32x32.mat").unlink()
    dataset = load("svhn", data_dir=folder.parent)
    names = ("train", "extra") if with_extra else ("train",)
    images = np.concatenate([PARTS[name][0] for name in names])
    digits = np.concatenate([PARTS[name][1] for name in names])
    np.testing.assert_array_equal(dataset.train_images, images)
    np.testing.assert_array_equal(dataset.train_labels, digits)
    np.testing.assert_array_equal(dataset.test_images, PARTS["test"][0])
    np.testing.assert_array_equal(dataset.test_labels, PARTS["test"][1])
    assert dataset.train_images.flags.c_contiguous
    assert dataset.train_images.dtype == np.uint8
    assert dataset.num_classes == 10
    assert (dataset.mean, dataset.std) == ((0.5,) * 3, (0.5,) * 3)


def test_no_other_variable_is_read(folder):
    note = np.array([["what", {"is": "not"}]], object)
    write(folder / "test_32x32.mat", *PARTS["test"], note=note)
    assert len(load("svhn", data_dir=folder.parent).test_labels) == 11


def test_a_folder_without_its_files_is_not_taken_for_svhn(tmp_path):
    assert not has_svhn(tmp_path)


def cut(where):
    return lambda path: path.write_bytes(path.read_bytes()[:where])


def garbled(path):
    data = bytearray(path.read_bytes())
    data[2000:2100] = bytes(100)
    path.write_bytes(data)


def save(**variables):
    return lambda path: scipy.io.savemat(path, variables)


IMAGES, LABELS = np.zeros((32, 32, 3, 5), np.uint8), np.ones((5, 1), np.uint8)


def mislabelled(path):
    labels = LABELS.copy()
    labels[3] = 11
    scipy.io.savemat(path, {"X": IMAGES, "y": labels})


@pytest.mark.parametrize("name", ["train_32x32.mat", "extra_32x32.mat"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut(3000), "could not be read as a MATLAB 5 file .X has .* of .* bytes"),
        (cut(-5), "MATLAB 5 file .a variable does not end where it should"),
        (garbled, "could not be read as a MATLAB 5 file"),
        (lambda path: path.write_bytes(b""), "could not be read as a MATLAB 5 file"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)), "MATLAB 5"),
        (save(X=IMAGES), "contains no variable y"),
        (save(y=LABELS), "contains no variable X"),
        (save(X=IMAGES[:16], y=LABELS), r"X of shape \(16, 32, 3, 5\)"),
        (save(X=IMAGES[..., 0], y=LABELS), r"X of shape \(32, 32, 3\)"),
        (save(X=IMAGES.astype(float), y=LABELS), "float64, but SVHN has uint8"),
        (save(X=IMAGES, y=LABELS[:4]), r"y of shape \(4, 1\)"),
        (save(X=IMAGES, y=np.array([["a"] * 5], object)), "y is not a real array of"),
        (save(X=IMAGES, y=LABELS * 0), "label 0 at position 0"),
        (save(X=IMAGES, y=LABELS * 1.5), "label 1.5 at position 0"),
        (save(X=IMAGES, y=LABELS * np.nan), "label nan at position 0"),
        (save(X=IMAGES, y=LABELS + 1j), "y is not a real array of uint8 or double"),
        (lambda path: scipy.io.savemat(path, {"y": 1.0}, format="4"), "MATLAB 5"),
        (mislabelled, "label 11 at position 3"),
    ],
)
def test_a_damaged_file_is_named(folder, name, damage, message):
    damage(folder / name)
    with pytest.raises(UserError, match=f"{name} .*{message}") as caught:
        load("svhn", data_dir=folder.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train_32x32.mat", "test_32x32.mat"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"but no {name}; add it"):
        load("svhn", data_dir=folder.parent)
