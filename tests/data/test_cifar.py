import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.data.datasets import load

SUBFOLDER = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
FILES = {
    "cifar10": [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"],
    "cifar100": ["train.bin", "test.bin"],
}
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}


def part(name, size, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, NUM_CLASSES[name], size, dtype=np.uint8)


def record(name, image, label):
    """Returns a record: (superclass,) class, then the red, green and blue planes."""
    head = [label] if name == "cifar10" else [label // 5, label]
    return bytes(head) + b"".join(image[..., c].tobytes() for c in range(3))


def write_set(folder, name, size=4):
    folder.mkdir(parents=True)
    parts = {file: part(name, size, i) for i, file in enumerate(FILES[name])}
    for file, (images, labels) in parts.items():
        records = [record(name, *pair) for pair in zip(images, labels, strict=True)]
        (folder / file).write_bytes(b"".join(records))
    return parts


@pytest.mark.parametrize("in_subfolder", [True, False])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_published_files_are_read(tmp_path, name, in_subfolder):
    folder = tmp_path / name / (SUBFOLDER[name] if in_subfolder else "")
    parts = write_set(folder, name)
    dataset = load(name, data_dir=tmp_path)
    *train, test = parts.values()
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    np.testing.assert_array_equal(dataset.train_images, images)
    np.testing.assert_array_equal(dataset.train_labels, labels)
    np.testing.assert_array_equal(dataset.test_images, test[0])
    np.testing.assert_array_equal(dataset.test_labels, test[1])
    assert dataset.train_images.flags.c_contiguous
    assert dataset.num_classes == NUM_CLASSES[name]
    np.testing.assert_allclose(dataset.mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(dataset.std, (images / 255).std((0, 1, 2)))


@pytest.mark.parametrize(
    ("name", "label_bytes", "label"), [("cifar10", 1, 10), ("cifar100", 2, 100)]
)
def test_a_damaged_file_is_named(tmp_path, name, label_bytes, label):
    write_set(tmp_path / name, name)
    for file in FILES[name]:
        path = tmp_path / name / file
        intact = path.read_bytes()
        record_size = label_bytes + 3072
        wrong = bytearray(intact)
        wrong[2 * record_size + label_bytes - 1] = label
        for damaged, message in (
            (intact[:-1], f"has {len(intact) - 1} bytes; .* of {record_size} bytes"),
            (intact + b"1", f"has {len(intact) + 1} bytes"),
            (b"", "has 0 bytes"),
            (bytes(wrong), f"label {label} at position 2, .* 0 to {label - 1}"),
            (None, "but no "),
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(UserError, match=message) as caught:
                load(name, data_dir=tmp_path)
            assert file in str(caught.value) and "\n" not in str(caught.value)
        path.write_bytes(intact)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    write_set(tmp_path / "cifar100", "cifar100")
    path = tmp_path / "cifar100" / "test.bin"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="test.bin"):
        load("cifar100", data_dir=tmp_path)
