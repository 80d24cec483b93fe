import io
import os
import socket
import subprocess
import sys
import time
import urllib.error

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.data import tfds
from fkjax.data.datasets import load
from fkjax.data.decoding import decode
from fkjax.data.reading import plain_errors
from fkjax.parallel.examples import Streamed, take


def png_file(array):
    """Encodes pixels as a PNG file; returns a file unchanged."""
    from PIL import Image

    if isinstance(array, io.BytesIO):
        return array
    pixels = array[..., 0] if array.shape[-1] == 1 else array
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "png")
    png.seek(0)
    return png


def prepare_tfds(folder, parts):
    """Prepares the TFDS dataset `tiny_pictures`, without registering its builder.

    Encoded images need no TensorFlow. The mock data of TFDS would not test the reading,
    as they are random arrays that are not encoded.
    """
    import tensorflow_datasets as tfds

    shapes = {image.shape for image in parts["train"][0]}
    shape = shapes.pop() if len(shapes) == 1 else (None, None, shapes.pop()[-1])
    features = {
        "image": tfds.features.Image(shape=shape),
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


def many_shapes(size, channels, seed):
    """Returns images of different shapes, and their labels."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(9, 30, (size, 2))
    images = [
        rng.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in shapes
    ]
    return images, np.arange(size) % 3


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_many_shapes_are_streamed(tmp_path, channels):
    train, validation = many_shapes(12, channels, 0), many_shapes(6, channels, 1)
    unlabeled = (many_shapes(3, channels, 2)[0], [-1, -1, -1])  # as in ImageNet
    parts = {"train": train, "validation": validation, "test": unlabeled}
    prepare_tfds(tmp_path, parts)
    pictures = load("tiny_pictures", data_dir=tmp_path, image_size=8)
    assert pictures.num_classes == 3
    mean = {1: (0.449,), 3: (0.485, 0.456, 0.406)}[channels]
    assert pictures.mean == mean and len(pictures.std) == channels
    for images, labels, part in (
        (pictures.train_images, pictures.train_labels, train),
        (pictures.test_images, pictures.test_labels, validation),
    ):
        assert isinstance(images, Streamed) and labels.dtype == np.int32
        taken = np.asarray(take(images, jnp.arange(len(images))))
        expected = [
            decode(png_file(image), "", image_size=8, channels=channels)
            for image in part[0]
        ]
        assert rows(taken, labels) == rows(expected, part[1])


def test_a_streamed_image_that_is_damaged_is_told_when_it_is_read(tmp_path):
    images, labels = many_shapes(6, 3, 1)
    whole = png_file(images[2]).getvalue()
    images[2] = io.BytesIO(whole[: len(whole) // 2])
    prepare_tfds(tmp_path, {"train": many_shapes(9, 3, 0), "test": (images, labels)})
    pictures = load("tiny_pictures", data_dir=tmp_path, image_size=8)
    message = r"^example \d of the part test of tiny_pictures of TFDS could not be read"
    with pytest.raises(UserError, match=message) as caught:
        with plain_errors(pictures.test_images):
            jax.jit(take)(pictures.test_images, jnp.arange(6)).block_until_ready()
    assert "\n" not in str(caught.value)


def test_a_shard_that_breaks_later_is_told_when_it_is_read(tmp_path, monkeypatch):
    from tensorflow_datasets.core.data_sources import base

    parts = {"train": many_shapes(9, 3, 0), "test": many_shapes(6, 3, 1)}
    prepare_tfds(tmp_path, parts)
    pictures = load("tiny_pictures", data_dir=tmp_path, image_size=8)

    def fail(self, i):
        raise OSError("the disk is gone\nlong traceback")

    monkeypatch.setattr(base.BaseDataSource, "__getitem__", fail)
    with pytest.raises(UserError, match=r"not read tiny_pictures \(the disk is gone\)"):
        with plain_errors(pictures.test_images):
            jax.jit(take)(pictures.test_images, jnp.arange(6)).block_until_ready()


def test_images_of_many_shapes_with_other_channels_are_refused(tmp_path):
    parts = {"train": many_shapes(3, 4, 0), "test": many_shapes(3, 4, 1)}
    prepare_tfds(tmp_path, parts)
    with pytest.raises(UserError, match="with 4 channels, .* 1 or 3"):
        load("tiny_pictures", data_dir=tmp_path)


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
    with pytest.raises(UserError, match="that contains it prepared as array_record"):
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
        ("imdb_reviews", "imdb_reviews of TFDS is not an image classification dataset"),
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
        "import sys, fkjax.data.datasets as d, fkjax.data.tfds as t\n"
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
    with pytest.raises(UserError, match="no data folder is given.*--data-dir=DIR"):
        load("fashion_mnist")


def test_nothing_is_prepared_for_who_only_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_prepare", None)  # not to be called
    with pytest.raises(UserError, match=f"^mnist is not in {tmp_path};"):
        load("mnist", data_dir=tmp_path, may_prepare=False)
    assert not list(tmp_path.iterdir())


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


@pytest.fixture
def described(tmp_path):
    """A prepared dataset: the folder of its two descriptions."""
    prepare_tfds(tmp_path, {"train": tiny_part(6, 1, 0), "test": tiny_part(3, 1, 1)})
    return tmp_path / "tiny_pictures" / "1.0.0"


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_no_code_that_a_file_names_is_imported(described, monkeypatch, tmp_path, key):
    (tmp_path / "intruder.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    label = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    replace(
        described / "features.json",
        f'"pythonClassName": "{label}"',
        f'"{key}": "intruder.Label", "content": {{}}',
    )
    with pytest.raises(UserError, match="features.json names .* intruder.Label, which"):
        load("tiny_pictures", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists() and "intruder" not in sys.modules


NAMED = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@pytest.mark.parametrize("place", ["../", "ABOVE/", "sub/../../"])
def test_no_file_elsewhere_is_read(described, tmp_path, place):
    place = place.replace("ABOVE", str(described.parent))
    for path in described.glob("*array_record*"):
        path.rename(described.parent / path.name)
    replace(described / "dataset_info.json", NAMED, place + NAMED)
    with pytest.raises(UserError, match="which is not in its folder"):
        load("tiny_pictures", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NAMED, "{DATASET}-{OTHER}", "could not open"),
        ('"6"', '"-6"', "-6 examples"),
        ('"6"', '"7"', "could not read"),
        ('"6"', '"99999999999999"', "bytes of memory"),
        ("array_record", "\\u001b[31m", "could not open"),
        ("{", "[" * 100_000, "could not open"),
    ],
)
def test_a_damaged_description_is_told(described, tmp_path, old, new, message):
    replace(described / "dataset_info.json", old, new)
    with pytest.raises(UserError, match=message) as caught:
        load("tiny_pictures", data_dir=tmp_path)
    assert str(caught.value).isprintable()


def test_a_pipe_in_place_of_a_description_is_not_waited_for(described, tmp_path):
    (described / "dataset_info.json").unlink()
    os.mkfifo(described / "dataset_info.json")
    with pytest.raises(UserError, match="not a regular file"):
        load("tiny_pictures", data_dir=tmp_path)
