import gzip
import hashlib
import io
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax import datasets
from fkjax.base import UserError
from fkjax.datasets import Dataset, DatasetError, load, split

KEY = jax.random.key(0)
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
    """A data folder whose mnist has 30 images of 4 x 5 pixels, and 10 to test."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in tiny_parts().items():
        (folder / name).write_bytes(idx_bytes(array))
    return tmp_path


def toy(counts, test_size=4):
    """A dataset of 1 x 1 pixel images with so many examples of each class."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    labels = np.random.default_rng(0).permutation(labels)
    images = np.arange(len(labels)).astype(np.uint8).reshape(-1, 1, 1, 1)
    test = (np.zeros((test_size, 1, 1, 1), np.uint8), np.zeros(test_size, np.int32))
    return Dataset("toy", images, labels, *test, len(counts), (0.0,), (1.0,))


def counts_of(part, num_classes):
    return np.bincount(part.labels, minlength=num_classes).tolist()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


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
    unpacked = idx_bytes(mnist.train_images[..., 0])
    assert hashlib.md5(unpacked).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    np.testing.assert_allclose(
        datasets._statistics(mnist.train_images), [[0.1307], [0.3081]], atol=5e-5
    )


def test_mnist_pool_at_100_is_the_papers(mnist):
    splits = split(KEY, mnist, validation_size=10_000, imbalance_ratio=100.0)
    assert counts_of(splits.validation, 10) == [1000] * 10
    assert counts_of(splits.pool, 10)[:5] == [4923, 5742, 4958, 5131, 4842]
    assert sum(counts_of(splits.pool, 10)[5:]) == 256
    assert len(splits.tuning.ids) == 0 and len(splits.test.ids) == 10_000


# IDX files


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


def test_data_folder_comes_from_the_environment(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny_mnist))
    monkeypatch.delenv("FKJAX_DATA_DIR", raising=False)
    assert len(load("mnist").train_images) == 30
    monkeypatch.setenv("FKJAX_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DatasetError, match="elsewhere"):
        load("mnist")
    assert len(load("mnist", data_dir=tiny_mnist).train_images) == 30


HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 30])
BAD_FILES = {
    "wrong magic": (TRAIN_LABELS, b"\0\0\x09\x01" + HEADER[4:], "0x00000901.*0x000008"),
    "labels for images": (TRAIN_IMAGES, HEADER + bytes(30), "0x00000801.*0x00000803"),
    "empty": (TRAIN_LABELS, b"", "begins with 0x "),
    "half a header": (TRAIN_LABELS, HEADER[:6], "ends within its header"),
    "truncated": (TRAIN_LABELS, HEADER + bytes(29), "declares 30 bytes and only 29"),
    "trailing": (TRAIN_LABELS, HEADER + bytes(31), "declares 30 bytes and more"),
    "bomb": (
        TRAIN_IMAGES,
        bytes([0, 0, 8, 3]) + b"\xff" * 12,
        "more than the 4294967296",
    ),
    "count": (
        TRAIN_LABELS,
        HEADER[:7] + bytes([29]) + bytes(29),
        "29 labels for the 30 images of .*train-images",
    ),
    "label range": (
        TEST_LABELS,
        HEADER[:7] + bytes([10]) + bytes(7) + bytes([10, 11, 0]),
        "label 10 at position 7 where mnist has classes 0 to 9",
    ),
    "no images": (
        TRAIN_IMAGES,
        bytes([0, 0, 8, 3, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 4]),
        r"mnist's training part: images have shape \(30, 0, 4, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_named(tiny_mnist, case, suffix):
    stem, data, message = BAD_FILES[case]
    (tiny_mnist / "mnist" / stem).unlink()
    path = tiny_mnist / "mnist" / (stem + suffix)
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(DatasetError, match=message) as caught:
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
    with pytest.raises(DatasetError, match="could not be read") as caught:
        load("mnist", data_dir=tiny_mnist)
    assert str(path) in str(caught.value)


def test_gzip_is_read_no_further_than_its_header_says(tmp_path):
    # Behind 30 declared bytes follow 8 MiB more, cut short: whoever read on to the
    # end would complain of the end.
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(HEADER + bytes(8 << 20), compresslevel=1)[:-20])
    with pytest.raises(DatasetError, match="declares 30 bytes and more follow"):
        datasets.read_idx(path, num_dims=1)


def test_missing_idx_file_is_named(tiny_mnist):
    (tiny_mnist / "mnist" / TEST_LABELS).unlink()
    with pytest.raises(DatasetError, match=f"neither {TEST_LABELS} nor"):
        load("mnist", data_dir=tiny_mnist)


def test_own_idx_set_takes_its_classes_from_training(tiny_mnist):
    (tiny_mnist / "mnist").rename(tiny_mnist / "own")
    labels = np.arange(30) % 3
    (tiny_mnist / "own" / TRAIN_LABELS).write_bytes(idx_bytes(labels))
    with pytest.raises(DatasetError, match="label 3 at position 3 where own has"):
        load("own", data_dir=tiny_mnist)


@given(data=st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_bytes_parse_or_raise_dataset_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    try:
        array = datasets.read_idx(path, num_dims=1)
    except DatasetError:
        return
    assert idx_bytes(array) == data


# validate


def broken(**changes):
    return toy([5, 5])._replace(**changes)


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
    with pytest.raises(DatasetError, match=message):
        datasets.validate(broken(**changes))


def test_valid_arrays_pass():
    datasets.validate(broken())


# split


def test_same_key_same_bytes_other_key_other_split(digits):
    options = {"validation_size": 200, "tuning_size": 50, "imbalance_ratio": 5.0}
    first, again = split(KEY, digits, **options), split(KEY, digits, **options)
    other = split(jax.random.key(1), digits, **options)
    for a, b in zip(first[:4], again[:4], strict=True):
        assert same(a, b)
    assert not np.array_equal(first.pool.ids, other.pool.ids)
    assert not np.array_equal(first.validation.ids, other.validation.ids)


@given(
    seed=st.integers(0, 2**31 - 1),
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=6),
    sizes=st.tuples(st.integers(1, 30), st.integers(0, 29)).filter(
        lambda sizes: sizes[0] > sizes[1]
    ),
)
@settings(max_examples=12, deadline=None)
def test_splits_partition_the_training_part(seed, counts, sizes):
    dataset = toy(counts)
    validation_size, tuning_size = sizes
    try:
        splits = split(
            jax.random.key(seed),
            dataset,
            validation_size=validation_size,
            tuning_size=tuning_size,
        )
    except DatasetError:
        assert min(counts) <= -(-validation_size // len(counts))
        return
    parts = splits[:3]
    ids = np.concatenate([part.ids for part in parts])
    np.testing.assert_array_equal(np.sort(ids), np.arange(sum(counts)))
    assert len(splits.tuning.ids) == tuning_size
    assert len(splits.validation.ids) == validation_size - tuning_size
    for part in parts:
        assert (np.diff(part.ids) > 0).all() and part.ids.dtype == np.int32
        np.testing.assert_array_equal(part.images, dataset.train_images[part.ids])
        np.testing.assert_array_equal(part.labels, dataset.train_labels[part.ids])
    held_out = np.concatenate([splits.validation.labels, splits.tuning.labels])
    for labels in (held_out, splits.tuning.labels):
        spread = np.bincount(labels, minlength=len(counts))
        assert spread.max() - spread.min() <= 1
        assert (np.diff(spread) <= 0).all()


def test_tuning_size_moves_neither_pool_nor_held_out_set(digits):
    options = {"validation_size": 200, "imbalance_ratio": 5.0}
    without = split(KEY, digits, **options)
    tuned = split(KEY, digits, tuning_size=60, **options)
    assert same(without.pool, tuned.pool)
    union = np.union1d(tuned.validation.ids, tuned.tuning.ids)
    np.testing.assert_array_equal(union, without.validation.ids)


@pytest.mark.parametrize("imbalance", ["step", "long_tail"])
def test_pools_of_growing_ratio_are_nested(digits, imbalance):
    pools = [
        set(
            split(
                KEY,
                digits,
                validation_size=200,
                imbalance=imbalance,
                imbalance_ratio=ratio,
            ).pool.ids.tolist()
        )
        for ratio in (1.0, 3.0, 10.0, 20.0)
    ]
    assert pools[0] > pools[1] > pools[2] > pools[3]


def test_step_thins_the_rare_classes_together():
    splits = split(
        KEY, toy([110, 120, 130, 140]), validation_size=40, imbalance_ratio=7.0
    )
    counts = counts_of(splits.pool, 4)
    assert counts[:2] == [100, 110]
    assert sum(counts[2:]) == 30  # 210 / 7
    chosen = split(
        KEY,
        toy([110, 120, 130, 140]),
        validation_size=40,
        imbalance_ratio=7.0,
        rare_classes=[0],
    )
    assert counts_of(chosen.pool, 4) == [round(360 / 7), 110, 120, 130]


def test_step_keeps_all_rare_images_where_they_are_fewer_than_the_ratio_allows():
    kept = datasets.step_imbalance(KEY, np.array([0] * 50 + [1] * 5), 2, ratio=2.0)
    np.testing.assert_array_equal(kept, np.arange(55))


def test_ratio_one_keeps_everything_even_where_rare_classes_are_larger():
    labels = np.array([0] * 5 + [1] * 50)
    for thin in (datasets.step_imbalance, datasets.long_tail):
        np.testing.assert_array_equal(thin(KEY, labels, 2, ratio=1), np.arange(55))


def test_rare_images_are_drawn_from_all_rare_classes_evenly():
    labels = np.repeat([0, 1, 2], [2000, 500, 500])
    kept = datasets.step_imbalance(KEY, labels, 3, ratio=10.0)
    counts = np.bincount(labels[kept])
    assert counts[0] == 2000 and counts[1:].sum() == 200
    # Hypergeometric: mean 100, standard deviation 6.3; six of them on either side.
    assert abs(counts[1] - 100) < 40


def test_long_tail_is_geometric():
    labels = np.repeat(np.arange(5), 1000)
    kept = datasets.long_tail(KEY, labels, 5, ratio=16.0)
    assert np.bincount(labels[kept]).tolist() == [1000, 500, 250, 125, 62]
    kept = datasets.long_tail(KEY, labels, 5, ratio=16.0, rare_classes=[1, 0])
    assert np.bincount(labels[kept]).tolist() == [62, 125, 1000, 500, 250]


def test_every_subset_of_a_class_is_equally_likely():
    labels = np.repeat([0, 1], 4)
    draws = np.zeros(8)
    for seed in range(150):
        draws[datasets.balanced_subset(jax.random.key(seed), labels, 2, 2)] += 1
    # Binomial(150, 1/4): mean 37.5, standard deviation 5.3.
    assert draws.sum() == 300 and abs(draws - 37.5).max() < 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_size": 0}, "validation size 0 must be at least 1"),
        ({"validation_size": -3}, "validation size -3"),
        ({"tuning_size": 10}, "tuning size 10 .* below the validation size, 10"),
        ({"tuning_size": -1}, "tuning size -1"),
        (
            {"validation_size": 50},
            "of 50 needs 25 images of class 1, which has 20; ask for at most 40",
        ),
        ({"validation_size": 40}, "leaves class 1 without an image"),
        ({"imbalance": "steep"}, "'steep' is unknown; choose step or long_tail"),
        ({"imbalance_ratio": 0.5}, "ratio 0.5 must be at least 1"),
        ({"imbalance_ratio": float("nan")}, "ratio nan must be at least 1"),
        ({"imbalance_ratio": 1000.0}, "ratio 1000 leaves class 1 without an image"),
        ({"imbalance_ratio": float("inf")}, "ratio inf leaves class 1"),
        (
            {"imbalance_ratio": 1000.0, "imbalance": "long_tail"},
            "ratio 1000 leaves class 1 without an image",
        ),
        ({"rare_classes": [2]}, "rare class 2 is unknown; classes are 0 to 1"),
        ({"rare_classes": [-1]}, "rare class -1 is unknown"),
        ({"rare_classes": []}, "0 of 2 classes are rare"),
        ({"rare_classes": [0, 1]}, "2 of 2 classes are rare"),
    ],
)
def test_impossible_splits_are_explained(options, message):
    with pytest.raises(DatasetError, match=message) as caught:
        split(KEY, toy([30, 20]), **{"validation_size": 10, **options})
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


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


def test_tfds_set_without_a_test_part_is_refused(tmp_path):
    parts = {"train": tiny_part(6, 1, 0), "extra": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path, parts)
    with pytest.raises(DatasetError, match="has the parts .*extra"):
        load("tiny_pictures", data_dir=tmp_path)


def test_tfds_set_prepared_as_tfrecord_is_refused(tmp_path):
    parts = {"train": tiny_part(6, 1, 0), "test": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path, parts)
    for info in tmp_path.rglob("dataset_info.json"):
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DatasetError, match="that holds it prepared as array_record"):
        load("tiny_pictures", data_dir=tmp_path)


def test_tfds_set_with_a_broken_shard_is_refused(tmp_path):
    parts = {"train": tiny_part(6, 1, 0), "test": tiny_part(6, 1, 1)}
    prepare_tfds(tmp_path, parts)
    for shard in tmp_path.rglob("*test.array_record*"):
        shard.write_bytes(b"")
    with pytest.raises(DatasetError, match="TFDS could not read tiny_pictures"):
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
    with pytest.raises(DatasetError, match=message) as caught:
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
    with pytest.raises(DatasetError) as caught:
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
        "except d.DatasetError: print('refused')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True
    )
    assert (answer.stdout, answer.stderr) == ("refused\n", "")


def test_missing_tensorflow_is_mentioned(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_answers", lambda url: True)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"pip install 'fkjax\[tfds\]'") as caught:
        load("mnist", data_dir=tmp_path)
    assert "no network" not in str(caught.value)


def test_nothing_is_prepared_without_a_named_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_answers", lambda url: True)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("FKJAX_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(DatasetError, match="no data folder is named.*--data-dir=DIR"):
        load("fashion_mnist")


def test_failure_while_preparing_is_one_message(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, **options):
        assert options == {"file_format": "array_record"}
        raise ConnectionError("reset by peer\nlong traceback")

    monkeypatch.setattr(datasets, "_answers", lambda url: True)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DatasetError, match=r"not prepare mnist \(reset by peer\);"):
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
    with pytest.raises(DatasetError, match="is a file; name a folder"):
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
