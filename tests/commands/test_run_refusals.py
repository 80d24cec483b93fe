"""Errors of the command in one line, after which no file has changed."""

import gzip
import subprocess
import sys
import time

import numpy as np
import pytest

import fkjax.commands.run
from fkjax.data import tfds
from tests.commands.command import SMALL


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def write_idx(path, array, size=None, magic=None):
    head = bytes(magic or [0, 0, 8, array.ndim])
    head += b"".join(n.to_bytes(4, "big") for n in array.shape)
    body = (head + array.astype(np.uint8).tobytes())[:size]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)


@pytest.fixture
def idx_dir(tmp_path):
    """A data folder with a small dataset named mnist."""
    for stem, count in (("train", 400), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = np.zeros((count, 8, 8)) + labels[:, None, None]
        folder = tmp_path / "data" / "mnist"
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels)
    return tmp_path / "data"


def refused(capsys, folder, *argv):
    """Returns the one line of an error, after checking that no file changed."""
    before = tree(folder)
    status = fkjax.commands.run.main([*map(str, argv)])
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("fkjax: ") and "Traceback" not in line
    assert tree(folder) == before
    return line


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("--dataset digts", ["'digts'", "did you mean 'digits'?"]),
        ("--strategies fisher_nearst", ["did you mean 'fisher_nearest'?"]),
        ("--taps conv1 conv9", ["unknown tap 'conv9' (did you mean 'conv", "logits"]),
        (
            "--rounds 50 --budget 50",
            ["takes 2500 labels", "has 768 images", "lower one of them"],
        ),
        ("--imbalance-ratio 100000", ["ratio 100000 leaves class 5", "smaller ratio"]),
        ("--seeds 0", ["--seeds must be 1 or more, got 0"]),
        ("--rare-classes 3 12", ["rare class 12 is unknown; classes are 0 to 9"]),
        ("--validation-size 5000", ["balanced subset of 5000 needs 500", "at most"]),
        (
            "--tuning-size 50",
            ["the tuning size", "below the validation size, 50, got 50"],
        ),
        ("--checkpoint-selection tuning", ["--tuning-size is 0"]),
        ("--learning-rate nan", ["--learning-rate must be", "got nan"]),
        ("--strategies random bald", ["need a model with dropout", "--dense-dropout"]),
    ],
)
def test_what_cannot_run_is_told_in_one_line(argv, parts, capsys, tmp_path):
    line = refused(capsys, tmp_path, *argv.split(), "--output-dir", tmp_path / "out")
    for part in parts:
        assert part in line


def test_a_used_folder_is_left_as_it_is(capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    line = refused(capsys, tmp_path, "--output-dir", tmp_path / "out")
    assert "new, empty or of an earlier run" in line and str(tmp_path / "out") in line


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_path_at_or_under_a_file_is_refused(below, capsys, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    line = refused(capsys, tmp_path, "--output-dir", tmp_path / "file" / below)
    assert str(tmp_path / "file") in line and "choose another" in line


IMAGES = "train-images-idx3-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "array", "options", "part"),
    [
        (
            IMAGES,
            np.zeros((400, 8, 8)),
            {"size": 9000},
            "declares 25600 bytes and only",
        ),
        (
            IMAGES,
            np.zeros((400, 8, 8)),
            {"magic": [0, 0, 9, 3]},
            "starts with 0x000009",
        ),
        (IMAGES, np.zeros((399, 8, 8)), {}, "400 labels for the 399 images"),
        ("t10k-labels-idx1-ubyte", np.full(20, 10), {}, "label 10 at position 0"),
        ("train-labels-idx1-ubyte", np.full(400, 255), {}, "label 255 at position 0"),
    ],
)
def test_damaged_idx_files_are_named(
    name, array, options, part, capsys, tmp_path, idx_dir
):
    write_idx(idx_dir / "mnist" / name, array, **options)
    out = tmp_path / "out"
    argv = ["--dataset", "mnist", "--data-dir", idx_dir, "--output-dir", out]
    line = refused(capsys, tmp_path, *argv)
    assert part in line and name in line


def test_idx_files_that_are_whole_are_taken(capsys, tmp_path, idx_dir):
    """Checks that the errors above are due to the damage."""
    argv = ["--dataset", "mnist", "--data-dir", idx_dir, "--validation-size", "100"]
    argv += ["--imbalance-ratio", "2", "--rounds", "1000", "--budget", "1"]
    line = refused(capsys, tmp_path, *argv)
    assert "the pool of mnist has 225 images" in line


def test_rotations_of_images_that_are_not_square_are_refused(capsys, tmp_path):
    for stem, count in (("train", 400), ("t10k", 20)):
        folder = tmp_path / "mnist"
        write_idx(folder / f"{stem}-images-idx3-ubyte", np.zeros((count, 8, 6)))
        write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10)
    argv = ["--dataset", "mnist", "--data-dir", tmp_path, *SMALL]
    line = refused(capsys, tmp_path, *argv, "--imbalance-ratio", "2")
    assert "8 x 6" in line and "--pretraining none" in line


def test_without_data_and_network_the_remedies_are_named_soon(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(tfds, "_DOWNLOAD_HOST", "https://no.invalid")
    since = time.perf_counter()
    argv = ["--dataset", "mnist", "--data-dir", tmp_path / "data"]
    line = refused(capsys, tmp_path, *argv, "--output-dir", tmp_path / "out")
    assert time.perf_counter() - since < 15
    assert line.startswith("fkjax: mnist is not in ")
    for remedy in ("no network", "--data-dir", "idx3-ubyte", "--dataset=digits"):
        assert remedy in line
    assert not list(tmp_path.iterdir())


def test_the_exit_status_of_the_process_is_2(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "fkjax.run", "--strategies", "fisher_nearst"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2 and "did you mean 'fisher_nearest'?" in line
