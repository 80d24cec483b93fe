"""Input that is broken, at random and on purpose: a right result or one clear sentence.

`python -m pytest tests/test_hostile.py --hypothesis-profile=thorough` tries 50 times as
many inputs; see `conftest.py`. An input that takes longer than `SECONDS` fails.
"""

import contextlib
import csv
import dataclasses
import gzip
import io
import json
import os
import shutil
import signal
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import fkjax.commands.run
from fkjax.acquisition import STRATEGIES
from fkjax.base import UserError, printable
from fkjax.commands import run
from fkjax.data import datasets, tfds
from fkjax.data.decoding import decode
from fkjax.data.idx import read_idx
from fkjax.data.svhn import read_svhn
from fkjax.experiment import checks, config, presets
from fkjax.runs.folder import RunFolder
from tests.records import record

SECONDS = 10


@contextlib.contextmanager
def in_time():
    """Fails what is inside if it hangs; pytest's failure is no `Exception`."""

    def fail(*_):
        pytest.fail(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(fn, *args, **options):
    """What a function returns, or None after a clear sentence."""
    try:
        with in_time():
            return fn(*args, **options)
    except UserError as error:
        assert str(error) and str(error).isprintable()
        return None


@st.composite
def damaged(draw, wholes):
    """One of some byte strings, with bytes set, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 4))):
        i = draw(st.integers(0, len(data)))
        j = i + draw(st.integers(0, 8))
        new = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[i:j]) * 2)))
        data[i:j] = new
    if draw(st.booleans()):
        return bytes(data)
    return bytes(data[: draw(st.integers(0, len(data)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# IDX files

SIDES = st.one_of(st.integers(0, 5), st.sampled_from([2**16, 2**31, 2**32 - 1]))


@st.composite
def idx_files(draw):
    """(axes, bytes): a header, mostly right, and then more or fewer bytes."""
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


# SVHN's and CIFAR's files


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
    # The negative size of a MATLAB 4 file, by which a reader may go back without end.
    struct.pack("<5i", 50, -22, 1, 0, 2) + b"X\0" + bytes(200),
]


@pytest.fixture(scope="module")
def svhn(folder):
    (folder / "svhn").mkdir()
    (folder / "svhn" / "test_32x32.mat").write_bytes(MATS[0])
    return folder / "svhn"


@st.composite
def damaged_mats(draw):
    """Damaged at its tags, for which the pixels leave little chance."""
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


# The command line

FLAGS = ["--" + f.name.replace("_", "-") for f in dataclasses.fields(config.Config)]
ODD = [
    *(
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 30,
        "9" * 5000,
        "1_0",
        "１２",
    ),
    *(
        "x" * 10_000,
        "\x1b[31m",
        "a\nb",
        "\0",
        "../../etc",
        "/etc",
        "\udc80",
        "--",
        "-h",
    ),
    *("=cmd()", "<script>", "[/red]", "{}", "%s", "@file", "None", "True", "1e3"),
]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
    st.sampled_from([*STRATEGIES, "lenet", "resnet18", "mnist", "paper-svhn"]),
)


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(FLAGS), st.lists(VALUES, max_size=2), st.booleans()),
        max_size=4,
    )
)
def test_any_command_line_is_accepted_or_refused(pairs):
    argv = []
    for flag, values, is_joined in pairs:
        argv += ["=".join([flag, *values])] if is_joined else [flag, *values]
    stderr, stdout = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            outcome(lambda: checks.check(run.parse(argv)))
    except SystemExit as end:
        assert end.code in (0, 2) and "Traceback" not in stderr.getvalue()
        assert end.code == 2 or "usage" in stdout.getvalue()


@pytest.fixture(scope="module")
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "_answers", lambda url: False)
        yield


NAMES = st.one_of(
    st.sampled_from(
        ["../../etc", "/etc", "..", ".", "", "mnist\0", "mnist/..", "a" * 5000]
    ),
    st.sampled_from(
        ["mnist:9.9.9", "mnist/x", "\x1b[31m", "а" * 300, "\udc80", "c:\\x"]
    ),
    st.text(alphabet="amnist0_/.:-\\~ \0\n", max_size=12),
)


@given(
    name=NAMES, place=st.sampled_from(["", "\0", "x" * 5000, "~nobody-of-that-name"])
)
@example("mnist", "file")
@example("mnist", "file/below")
def test_a_name_that_is_no_set_is_refused_and_nothing_is_written(
    folder, no_network, name, place
):
    here = folder / "empty"
    here.mkdir(exist_ok=True)
    (here / "file").touch()
    where = place if place.startswith("~") else here / place
    assert outcome(datasets.load, name, data_dir=where) is None
    assert os.listdir(here) == ["file"]


def test_the_command_says_one_line_of_a_file_name_that_holds_a_newline(
    tmp_path, capsys
):
    place = tmp_path / "bad\n\x1b[2Jname"
    (place / "mnist").mkdir(parents=True)
    os.mkfifo(place / "mnist" / "train-images-idx3-ubyte")
    with in_time():
        status = fkjax.commands.run.main(
            ["--dataset", "mnist", "--data-dir", str(place)]
        )
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert status == 2 and captured.out == "" and line.isprintable()
    assert r"bad\n\x1b[2Jname" in line and "no regular file" in line


# The files of a run

LINE = json.dumps(record()).encode() + b"\n"
HALF = [b"[" * 100_000 + b"\n", b'{"seed": 1' + b"0" * 5000 + b"}\n", b"\xff\xfe{}\n"]


@pytest.fixture
def run_folder(folder):
    shutil.rmtree(folder / "run", ignore_errors=True)
    made = RunFolder.create(folder / "run")
    made.write_config(dataclasses.asdict(presets.defaults("digits")))
    return made


def rewritten(run_folder, name, data):
    (run_folder.path / name).write_bytes(data)
    return run_folder


@pytest.fixture(scope="module")
def any_run(folder):
    return RunFolder.create(folder / "any run")


@given(data=damaged([b"{}", b'{"seeds": 3, "taps": ["conv1"]}', b"[]", b"3", *HALF]))
def test_a_configuration_is_an_object_or_refused(any_run, data):
    found = outcome(rewritten(any_run, "config.json", data).read_config)
    assert found is None or json.loads(data) == found


@given(data=damaged([LINE, LINE * 3, *HALF, LINE + HALF[0]]))
def test_a_line_of_records_is_a_record_or_refused(any_run, data):
    found = outcome(rewritten(any_run, "rounds.jsonl", data).read_records)
    if found is not None:
        lines = data.split(b"\n")[:-1]
        assert found == [json.loads(line) for line in lines]
        assert all(len(r["confusion"]) == len(r["class_accuracy"]) for r in found)


ROWS = b"strategy,seed,round,id,label,pseudo_label,target_id\nrandom,0,1,5,6,,\n"


@given(data=damaged([ROWS, ROWS * 2, b'"', b"\xff\n", b"random,0\n", b"random,0,x\n"]))
def test_queries_are_rewound_or_left_as_they_are(any_run, data):
    rewritten(any_run, "queries.csv", data)
    rewritten(any_run, "rounds.jsonl", b"")
    path = any_run.path / "queries.csv"
    try:
        with in_time():
            any_run.rewind(strategy="random", seed=0, round=1)
    except UserError as error:
        assert str(error).isprintable() and path.read_bytes() == data
    else:
        assert not any(
            row[:2] == ["random", "0"] and int(row[2]) >= 1
            for row in list(csv.reader(io.StringIO(path.read_text(), newline="")))[1:]
        )


@given(strategy=st.text(alphabet="=+-@＝＠\t\r\n 'a,;\"", min_size=1, max_size=6))
def test_no_cell_is_run_as_a_formula(any_run, strategy):
    rewritten(any_run, "queries.csv", b"")
    any_run.append_queries([1], [2], [-1], [-1], strategy=strategy, seed=0, round=1)
    text = (any_run.path / "queries.csv").read_bytes().decode()
    _, (cell, *_) = csv.reader(io.StringIO(text, newline=""))
    shown = printable(strategy)
    assert cell[0] not in "=+-@＝＋－＠\t\r\n" and cell in (shown, "'" + shown)


@pytest.mark.parametrize("name", ["config.json", "rounds.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_file_of_a_run_that_is_none_is_refused(run_folder, name, make):
    (run_folder.path / name).unlink(missing_ok=True)
    make(run_folder.path / name)
    read = {"config.json": run_folder.read_config}.get(name, run_folder.read_records)
    assert outcome(read) is None


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_a_run_folder_that_cannot_be_is_refused(tmp_path, path):
    assert outcome(RunFolder.open, tmp_path / path) is None
    assert outcome(RunFolder.create, tmp_path / path) is None
    assert not os.listdir(tmp_path)
