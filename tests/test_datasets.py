import hashlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error

import numpy as np
import pytest

from fkjax import datasets
from fkjax.base import UserError
from fkjax.datasets import Dataset, load

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
    mean, std = datasets._statistics(np.full((3, 2, 2, 2), 7, np.uint8))
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
        datasets._statistics(mnist.train_images), [[0.1307], [0.3081]], atol=5e-5
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
        ({"train_images": NAN_IMAGES}, "training part: 2 .* NaN .* first at index 6"),
        ({"train_images": np.zeros((10, 1, 1, 1))}, "float64; expected uint8"),
        ({"train_images": np.zeros((10, 1, 1), np.uint8)}, r"\(10, 1, 1\); expected"),
        ({"train_images": np.zeros((9, 1, 1, 1), np.uint8)}, "of the 9 images"),
        ({"test_images": np.zeros((4, 2, 1, 1), np.uint8)}, "give both one shape"),
        ({"test_labels": np.array([0, 1, 2, 1])}, "test part: label 2 is 2"),
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


# TFDS


def png_file(array):
    from PIL import Image

    pixels = array[..., 0] if array.shape[-1] == 1 else array
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "png")
    png.seek(0)
    return png


def prepare_tfds(folder, parts):
    """Writes TFDS's set `tiny_pictures` and forgets the code that did.

    An already encoded image needs no TensorFlow.
    """
    import tensorflow_datasets as tfds

    images, _ = parts["train"]
    features = {
        "image": tfds.features.Image(shape=images.shape[1:]),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    with tfds.core.registered.skip_registration():

        class TinyPictures(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {part: self._generate_examples(part) for part in parts}

            def _generate_examples(self, part):
                for i, (image, label) in enumerate(zip(*parts[part], strict=True)):
                    yield i, {"image": png_file(image), "label": int(label)}

    TinyPictures(data_dir=folder).download_and_prepare(file_format="array_record")


def tiny_part(size, channels, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 6, 5, channels), dtype=np.uint8)
    return images, np.arange(size) % 3


def rows(images, labels):
    return sorted((c, image.tobytes()) for c, image in zip(labels, images, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("test", ["test", "validation"])
def test_prepared_tfds_set_is_read_without_tensorflow(tmp_path, channels, test, capfd):
    parts = {"train": tiny_part(12, channels, 0), test: tiny_part(6, channels, 1)}
    prepare_tfds(tmp_path, parts)
    assert list(tmp_path.rglob("*.array_record*"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capfd.readouterr()
    dataset = load("tiny_pictures", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert rows(dataset.train_images, dataset.train_labels) == rows(*parts["train"])
    assert rows(dataset.test_images, dataset.test_labels) == rows(*parts[test])
    assert (dataset.num_classes, len(dataset.mean)) == (3, channels)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_data_folder_comes_from_the_environment(tmp_path, monkeypatch):
    parts = {"train": tiny_part(12, 1, 0), "test": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path / "here", parts)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "here"))
    monkeypatch.delenv("FKJAX_DATA_DIR", raising=False)
    assert len(load("tiny_pictures").train_images) == 12
    monkeypatch.setenv("FKJAX_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="'tiny_pictures' is unknown"):
        load("tiny_pictures")
    here = os.fspath(tmp_path / "here")
    assert len(load("tiny_pictures", data_dir=here).train_images) == 12


def test_tfds_set_without_a_test_part_is_refused(tmp_path):
    parts = {"train": tiny_part(6, 1, 0), "extra": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path, parts)
    with pytest.raises(UserError, match="has the parts .*extra"):
        load("tiny_pictures", data_dir=tmp_path)


def test_tfds_set_prepared_as_tfrecord_is_refused(tmp_path):
    parts = {"train": tiny_part(6, 1, 0), "test": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path, parts)
    for info in tmp_path.rglob("dataset_info.json"):
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="that holds it prepared as array_record"):
        load("tiny_pictures", data_dir=tmp_path)


def test_tfds_set_with_a_broken_shard_is_refused(tmp_path):
    parts = {"train": tiny_part(6, 1, 0), "test": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path, parts)
    for shard in tmp_path.rglob("*test.array_record*"):
        shard.write_bytes(b"")
    with pytest.raises(UserError, match="TFDS could not read tiny_pictures"):
        load("tiny_pictures", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imdb_reviews", "imdb_reviews is no image classification set"),
        ("cats_vs_dogs", r"varying shape, \(None, None, 3\)"),
        ("mnistt", "'mnistt' is unknown; did you mean 'mnist'"),
        ("fashion-mnist", "did you mean 'fashion_mnist'"),
        ("digit", "did you mean 'digits'"),
        ("MNIST", "did you mean 'mnist'"),
        ("huggingface:mnist", "is unknown"),
        ("../mnist", "is unknown"),
        ("", "is unknown"),
        ("mnist:9.9.9", "TFDS could not open mnist:9.9.9"),
    ],
)
def test_unusable_names_are_explained(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UserError, match=message) as caught:
        load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def refuse(*args, **kwargs):
    raise OSError("Network is unreachable")


def hang(*args, **kwargs):
    time.sleep(20)
    raise OSError("too late")


@pytest.mark.parametrize("connect", [refuse, hang])
def test_no_network_is_one_prompt_message(tmp_path, monkeypatch, connect):
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(datasets, "_PATIENCE", 1.0)
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        load("mnist", data_dir=tmp_path)
    assert time.perf_counter() - start < 10
    message = str(caught.value)
    for part in ("no network", "--data-dir=DIR", "DIR/mnist", "--dataset=digits"):
        assert part in message
    assert "\n" not in message and str(tmp_path) in message
    assert not list(tmp_path.iterdir())


def test_tfds_is_kept_quiet(tmp_path):
    code = (
        "import sys, fkjax.datasets as d\n"
        "d._answers = lambda url: False\n"
        "try: d.load('mnist', data_dir=sys.argv[1])\n"
        "except d.UserError: print('refused')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True
    )
    assert (answer.stdout, answer.stderr) == ("refused\n", "")


def test_missing_tensorflow_is_mentioned(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_answers", lambda url: True)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fkjax\[tfds\]'") as caught:
        load("mnist", data_dir=tmp_path)
    assert "no network" not in str(caught.value)


def test_nothing_is_prepared_without_a_named_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_answers", lambda url: True)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("FKJAX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="no data folder is named.*--data-dir=DIR"):
        load("fashion_mnist")


def test_failure_while_preparing_is_one_message(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, **options):
        assert options == {"file_format": "array_record"}
        raise ConnectionError("reset by peer\nlong traceback")

    monkeypatch.setattr(datasets, "_answers", lambda url: True)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=r"not prepare mnist \(reset by peer\);"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (urllib.error.HTTPError("", 400, "Bad Request", None, None), True),  # pyright: ignore
        (urllib.error.URLError("no route"), False),
        (TimeoutError(), False),
    ],
)
def test_a_host_that_refuses_still_answers(monkeypatch, error, expected):
    def urlopen(url, timeout):
        raise error

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert datasets._answers("https://example.invalid") is expected


def test_a_data_folder_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        load("mnist", data_dir=path)


def test_import_is_light():
    code = (
        "import sys, fkjax.datasets; "
        "print({'tensorflow_datasets', 'tensorflow', 'sklearn'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
