import io
import os
import socket
import subprocess
import sys
import time
import urllib.error

import numpy as np
import pytest

from fkjax import tfds
from fkjax.base import UserError
from fkjax.datasets import load


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
        ("svhn", r"svhn is not in .*/svhn: .*--dataset=svhn_cropped"),
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
    monkeypatch.setattr(tfds, "_PATIENCE", 1.0)
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
        "import sys, fkjax.datasets as d, fkjax.tfds as t\n"
        "t._answers = lambda url: False\n"
        "try: d.load('mnist', data_dir=sys.argv[1])\n"
        "except d.UserError: print('refused')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True
    )
    assert (answer.stdout, answer.stderr) == ("refused\n", "")


def test_missing_tensorflow_is_mentioned(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_answers", lambda url: True)
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fkjax\[tfds\]'") as caught:
        load("mnist", data_dir=tmp_path)
    assert "no network" not in str(caught.value)


def test_nothing_is_prepared_without_a_named_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_answers", lambda url: True)
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("FKJAX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="no data folder is named.*--data-dir=DIR"):
        load("fashion_mnist")


def test_failure_while_preparing_is_one_message(tmp_path, monkeypatch):
    import tensorflow_datasets

    def fail(self, **options):
        assert options == {"file_format": "array_record"}
        raise ConnectionError("reset by peer\nlong traceback")

    monkeypatch.setattr(tfds, "_answers", lambda url: True)
    monkeypatch.setattr(tfds.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(
        tensorflow_datasets.core.DatasetBuilder, "download_and_prepare", fail
    )
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
    assert tfds._answers("https://example.invalid") is expected
