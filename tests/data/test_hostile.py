"""Damaged files of datasets: see `tests/hostile.py`."""

import gzip
import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fkjax.data import datasets
from fkjax.data.decoding import decode
from fkjax.data.idx import read_idx
from fkjax.data.svhn import read_svhn
from tests.hostile import damaged, outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# IDX files

SIDES = st.one_of(st.integers(0, 5), st.sampled_from([2**16, 2**31, 2**32 - 1]))


@st.composite
def idx_files(draw):
    """Draws (axes, bytes): a header, mostly correct, and too many or too few bytes."""
    shape = draw(st.lists(SIDES, min_size=1, max_size=3))
    declared = draw(st.sampled_from([len(shape)] * 5 + [0, 1, 255]))
    data = bytes([0, 0, 8, declared]) + struct.pack(f">{len(shape)}I", *shape)
    size = int(np.prod([side for side in shape if side < 6]))
    data += draw(st.binary(min_size=size, max_size=size))
    return len(shape), draw(damaged([data]))


@given(file=idx_files())
def test_an_idx_file_is_read_as_it_is_or_refused(folder, file):
    num_dims, data = file
    (folder / "any").write_bytes(data)
    array = outcome(read_idx, folder / "any", num_dims=num_dims)
    if array is not None:
        header = bytes([0, 0, 8, array.ndim])
        header += struct.pack(f">{array.ndim}I", *array.shape)
        assert header + array.tobytes() == data


LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 9, *range(9)])
ZIPPED = [gzip.compress(LABELS), gzip.compress(LABELS[:9]) + gzip.compress(LABELS[9:])]


@given(data=damaged([*ZIPPED, ZIPPED[0] + b"more", ZIPPED[0] + gzip.compress(b"1")]))
def test_a_gzipped_idx_file_is_read_as_gzip_reads_it_or_refused(folder, data):
    (folder / "any.gz").write_bytes(data)
    array = outcome(read_idx, folder / "any.gz", num_dims=1)
    if array is not None:
        assert gzip.decompress(data) == LABELS[:4] + struct.pack(
            ">I", len(array)
        ) + bytes(array)


@given(
    labels=st.lists(st.integers(0, 255), max_size=12),
    count=st.integers(0, 12),
    num_classes=st.sampled_from(["mnist", "own"]),
)
def test_labels_that_an_idx_set_may_have(folder, labels, count, num_classes):
    place = folder / num_classes
    place.mkdir(exist_ok=True)
    images = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 2, 2) + bytes(4 * count)
    whole = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels)) + bytes(labels)
    for stem in ("train", "t10k"):
        (place / f"{stem}-images-idx3-ubyte").write_bytes(images)
        (place / f"{stem}-labels-idx1-ubyte").write_bytes(whole)
    found = outcome(datasets.load, num_classes, data_dir=folder)
    most = 10 if num_classes == "mnist" else max(2, *labels, 0) + 1
    is_right = 0 < len(labels) == count and max(labels) < most
    if num_classes == "own":
        is_right = is_right and max(labels) > 0
    assert (found is not None) == is_right
    if found is not None:
        assert found.train_labels.tolist() == labels


# Files of SVHN and CIFAR


def mat_file(size, **options):
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (32, 32, 3, size), np.uint8)[:, :, :1] // 64
    images = np.repeat(images, 3, axis=2)
    labels = (np.arange(size)[:, None] % 10 + 1).astype(options.pop("dtype", np.uint8))
    file = io.BytesIO()
    scipy.io.savemat(file, {"note": "x", "X": images, "y": labels}, **options)
    return file.getvalue()


MATS = [
    mat_file(1),
    mat_file(2, dtype=float),
    mat_file(3, do_compression=True),
    # The negative size of a MATLAB 4 file, for which a reader may not terminate.
    struct.pack("<5i", 50, -22, 1, 0, 2) + b"X\0" + bytes(200),
]


@pytest.fixture(scope="module")
def svhn(folder):
    (folder / "svhn").mkdir()
    (folder / "svhn" / "test_32x32.mat").write_bytes(MATS[0])
    return folder / "svhn"


@st.composite
def damaged_mats(draw):
    """Damages the tags, which random damage would rarely hit among the pixels."""
    data = bytearray(draw(st.sampled_from(MATS)))
    near = st.one_of(st.integers(124, 330), st.integers(len(data) - 100, len(data) - 1))
    for i in draw(st.lists(near, max_size=5)):
        data[i % len(data)] = draw(st.sampled_from([0, 1, 4, 14, 15, 127, 128, 255]))
    return draw(st.one_of(st.just(bytes(data)), damaged([bytes(data)])))


@given(data=damaged_mats())
def test_a_matlab_file_is_read_or_refused(svhn, data):
    (svhn / "train_32x32.mat").write_bytes(data)
    found = outcome(read_svhn, svhn)
    if found is not None:
        images, labels = found[:2]
        assert images.shape == (len(labels), 32, 32, 3)
        assert images.dtype == labels.dtype == np.uint8 and set(labels) <= set(
            range(10)
        )


@given(
    sizes=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    extra=st.integers(-3, 3),
    label=st.integers(0, 255),
)
def test_a_cifar_file_is_read_or_refused(folder, sizes, extra, label):
    place = folder / "cifar100"
    place.mkdir(exist_ok=True)
    rows = [bytes([7, label]) + bytes(3072)] * sizes[0]
    data = b"".join(rows)
    data = data[:extra] if extra < 0 else data + bytes(extra)
    (place / "train.bin").write_bytes(data)
    (place / "test.bin").write_bytes((bytes(3074)) * sizes[1])
    found = outcome(datasets.load, "cifar100", data_dir=folder)
    is_right = sizes[0] and sizes[1] and not extra and label < 100
    assert (found is not None) == bool(is_right)


# Images


def image_file(form, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


IMAGES = [
    *(image_file("PNG", mode) for mode in ("1", "L", "P", "LA", "RGB", "RGBA")),
    *(image_file("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    image_file("JPEG", progressive=True),
    *(image_file(form) for form in ("GIF", "TIFF", "BMP", "WEBP", "ICO", "PPM")),
]


@given(data=damaged(IMAGES), channels=st.sampled_from([1, 3]))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_an_image_is_decoded_or_refused(data, channels):
    got = outcome(decode, io.BytesIO(data), "x.png", image_size=4, channels=channels)
    assert got is None or (got.shape == (4, 4, channels) and got.dtype == np.uint8)


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


@given(
    sides=st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 40)] * 2),
    depth=st.sampled_from([1, 2, 4, 8, 16]),
    kind=st.sampled_from([0, 2, 3, 4, 6]),
    interlaced=st.integers(0, 1),
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_png_file_of_any_declared_size(sides, depth, kind, interlaced):
    header = struct.pack(">2I5B", *sides, depth, kind, 0, 0, interlaced)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(bytes(20_000), 1)) + chunk(b"IEND", b"")
    got = outcome(decode, io.BytesIO(data), "x.png", image_size=4)
    assert got is None or got.shape == (4, 4, 3)
