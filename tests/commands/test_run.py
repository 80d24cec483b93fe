"""The command from end to end, on the digits."""

import csv
import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import fkjax.commands.run
from fkjax import models
from fkjax.data import splits
from fkjax.experiment import play as experiment
from fkjax.experiment.config import Config
from fkjax.experiment.presets import defaults
from fkjax.models import resnet10

SMALL = (
    "--seeds 1 --rounds 2 --budget 5 --epochs 2 --pretraining-epochs 1 "
    "--validation-size 100"
).split()
# A test may run with Ctrl-C ignored, as in a shell's background, and inherits that.
COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from fkjax.run import main; sys.exit(main())"
)


def start_command(*argv, code=COMMAND, **options):
    env = os.environ | {"FORCE_COLOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **options,
    )


def finish(process, timeout=120):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def read_jsonl(folder):
    text = (folder / "rounds.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def read_queries(folder):
    with (folder / "queries.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


class Finished:
    """A run of two strategies: its folder, its output and its initial states."""

    def __init__(self, folder):
        self.folder, self.starts = folder, []
        self.argv = [*SMALL, "--strategies", "random", "fisher_nearest"]
        play = experiment.play

        def spy(driver, strategy, state, *args, **kwargs):
            self.starts.append(state)
            return play(driver, strategy, state, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiment, "play", spy)
            self.status = fkjax.commands.run.main(
                [*self.argv, "--output-dir", str(folder)]
            )
        self.records = read_jsonl(folder)
        self.queries = read_queries(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("runs") / "new" / "run")


@pytest.fixture(scope="module")
def parts(digits):
    return splits.split(
        jax.random.key(0), digits, validation_size=100, imbalance_ratio=10.0
    )


def test_a_run_leaves_its_files(finished):
    assert finished.status == 0
    assert {path.name for path in finished.folder.iterdir()} == {
        *("config.json", "rounds.jsonl", "queries.csv"),
        *("learning_curve.png", "confusion.png"),
    }
    for name in ("learning_curve.png", "confusion.png"):
        data = (finished.folder / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000


def test_the_configuration_is_recorded_with_versions(finished):
    recorded = json.loads((finished.folder / "config.json").read_text())
    versions = recorded.pop("versions")
    assert set(versions) == {"fkjax", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert versions["jax"] == jax.__version__
    # Settings for labeling by a person are only saved if a person labels.
    fields = set(Config.__dataclass_fields__) - {*fkjax.commands.run._OF_A_PERSON}
    assert len(bytes.fromhex(recorded.pop("data"))) == 32
    assert set(recorded) == fields
    assert recorded["strategies"] == ["random", "fisher_nearest"]
    assert recorded["imbalance_ratio"] == 10.0 and recorded["budget"] == 5


def test_there_is_a_record_for_each_round(finished):
    rounds = [(r["strategy"], r["seed"], r["round"]) for r in finished.records]
    assert rounds == [
        (name, 0, number) for name in ("random", "fisher_nearest") for number in (1, 2)
    ]
    assert [r["num_labeled"] for r in finished.records] == [5, 10, 5, 10]


def test_the_fields_of_a_record_agree(finished, digits):
    test_counts = np.bincount(digits.test_labels)
    for r in finished.records:
        assert set(r) == {
            *("dataset", "strategy", "seed", "round", "num_labeled"),
            *("checkpoint_selection", "test_accuracy", "balanced_accuracy"),
            *("class_accuracy", "queried_per_class", "num_random", "num_mistakes"),
            *("confusion", "seconds", "peak_memory_mb"),
        }
        assert r["dataset"] == "digits" and r["checkpoint_selection"] == "last"
        confusion = np.array(r["confusion"])
        np.testing.assert_array_equal(confusion.sum(1), test_counts)
        by_class = np.diag(confusion) / test_counts
        np.testing.assert_allclose(r["class_accuracy"], by_class)
        assert r["balanced_accuracy"] == pytest.approx(by_class.mean())
        assert r["test_accuracy"] == pytest.approx(np.trace(confusion) / 355)
        phases = {"query", "oracle", "training", "evaluation"}
        assert set(r["seconds"]) - {"pretraining"} == phases
        assert ("pretraining" in r["seconds"]) == (r["round"] == 1)
        assert set(r["peak_memory_mb"]) == set(r["seconds"])
        assert all(100 < peak < 20_000 for peak in r["peak_memory_mb"].values())
        is_random = r["strategy"] == "random"
        assert r["num_random"] == (5 if is_random else 0)
        assert (r["num_mistakes"] == -1) == is_random
        if not is_random:
            assert 10 < r["num_mistakes"] <= 100


def test_queries_are_dataset_ids_with_their_labels(finished, digits, parts):
    assert len(finished.queries) == 20
    for strategy in ("random", "fisher_nearest"):
        mine = [row for row in finished.queries if row["strategy"] == strategy]
        ids = [int(row["id"]) for row in mine]
        assert len(set(ids)) == 10 and set(ids) <= set(parts.pool.ids.tolist())
        assert [int(row["round"]) for row in mine] == [1] * 5 + [2] * 5
        labels = [int(row["label"]) for row in mine]
        assert labels == digits.train_labels[ids].tolist()
        targets = {row["target_id"] for row in mine}
        assumed = {row["pseudo_label"] for row in mine}
        if strategy == "random":
            assert targets == assumed == {""}
        else:
            assert set(map(int, targets)) <= set(parts.validation.ids.tolist())
            assert set(map(int, assumed)) <= set(range(10))
    for r in finished.records:
        labels = [
            int(row["label"])
            for row in finished.queries
            if (row["strategy"], row["round"]) == (r["strategy"], str(r["round"]))
        ]
        assert np.bincount(labels, minlength=10).tolist() == r["queried_per_class"]


def test_strategies_start_from_the_same_pretrained_weights(finished, digits):
    first, second = finished.starts
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)
    jax.tree.map(np.testing.assert_array_equal, first.pool, second.pool)
    assert first.key == second.key == jax.random.key(0)
    assert (first.pool.queried_at == -1).all()
    seconds = [r["seconds"]["pretraining"] for r in finished.records if r["round"] == 1]
    assert seconds[0] == seconds[1] > 0


def test_a_replay_gives_the_same_bytes_and_shows_no_progress(finished, tmp_path):
    """Runs in another process, whose output is not a terminal."""
    folder = tmp_path / "again"
    status, out, err = finish(
        start_command(*finished.argv, "--output-dir", folder, cwd=tmp_path)
    )
    assert (status, err) == (0, "")
    assert "fisher_nearest" in out and str(folder) in out.replace("\n", "")
    for name in ("queries.csv", "learning_curve.png", "confusion.png"):
        original = (finished.folder / name).read_bytes()
        assert (folder / name).read_bytes() == original
    both = zip(read_jsonl(finished.folder), read_jsonl(folder), strict=True)
    for record, other in both:
        for measured in ("seconds", "peak_memory_mb"):
            del record[measured], other[measured]
        assert json.dumps(record) == json.dumps(other)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_noise_selection_and_seeds_reach_the_rounds(digits, tmp_path, capsys):
    """Runs with labels that are all wrong, and without pretraining."""
    argv = "--strategies random --label-noise 1 --pretraining none".split()
    argv += "--checkpoint-selection tuning --tuning-size 20 --seed 3".split()
    folder = tmp_path / "run"
    argv += ["--seeds", "2", "--output-dir", str(folder)]
    assert fkjax.commands.run.main([*SMALL, *argv]) == 0
    assert capsys.readouterr().err == ""
    records, queries = read_jsonl(folder), read_queries(folder)
    assert [r["checkpoint_selection"] for r in records] == ["tuning"] * 4
    assert [r["seed"] for r in records] == [3, 3, 4, 4]
    for row in queries:
        assert int(row["label"]) != digits.train_labels[int(row["id"])]
    ids = [{row["id"] for row in queries if row["seed"] == s} for s in "34"]
    assert len(ids[0]) == len(ids[1]) == 10 and ids[0] != ids[1]


def test_uncertainty_is_queried_where_there_is_dropout(tmp_path):
    folder = tmp_path / "run"
    argv = "--strategies variation_ratio margin --dense-dropout 0.5".split()
    argv += ["--pretraining", "none", "--output-dir", str(folder)]
    assert fkjax.commands.run.main([*SMALL, *argv]) == 0
    records = read_jsonl(folder)
    assert [(r["strategy"], r["round"], r["num_random"]) for r in records] == [
        ("variation_ratio", 1, 5),  # the first query is random
        ("variation_ratio", 2, 0),
        ("margin", 1, 5),
        ("margin", 2, 0),
    ]
    assert all(record["num_mistakes"] == -1 for record in records)


def test_an_ensemble_a_random_share_and_training_on_validation(tmp_path):
    folder = tmp_path / "run"
    argv = "--strategies variation_ratio --dense-dropout 0.5 --pretraining none".split()
    argv += "--ensemble 2 --passes 4 --random-share 0.4 --train-on-validation".split()
    assert fkjax.commands.run.main([*SMALL, *argv, "--output-dir", str(folder)]) == 0
    records = read_jsonl(folder)
    assert [r["num_random"] for r in records] == [5, 2]  # 0.4 of 5
    for r in records:
        assert len(r["member_accuracy"]) == 2
        assert r["member_accuracy"][0] != r["member_accuracy"][1]
        # 100 validation images teach more than 5 labels can.
        assert r["test_accuracy"] > 0.15


@pytest.fixture
def own_model():
    """A user's model, registered by one line."""

    def make(image_shape, num_classes, *, mean, std, conv_dropout, dense_dropout):
        return resnet10(
            image_shape,
            num_classes,
            mean=mean,
            std=std,
            width=2,
            conv_dropout=conv_dropout,
            dense_dropout=dense_dropout,
        )

    models.MODELS["narrow"] = models.Architecture(make, ("stage3", "pool"), 0.0, 0.5)
    yield "narrow"
    del models.MODELS["narrow"]


def test_a_model_of_ones_own_is_one_entry(own_model, tmp_path):
    folder = tmp_path / "run"
    argv = ["--model", own_model, "--pretraining", "none", "--output-dir", str(folder)]
    assert (
        fkjax.commands.run.main([*SMALL, *argv, "--strategies", "fisher_nearest"]) == 0
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["taps"] == ["stage3", "pool"] and config["dense_dropout"] == 0.5
    assert len(read_jsonl(folder)) == 2


def test_seeds_side_by_side_are_the_seeds_one_by_one(tmp_path, capsys):
    """The same queries, labels and pseudo-labels; sums may differ in the last bits."""
    argv = "--strategies random fisher_oracle --seeds 2".split()
    found = {}
    for choice in ("yes", "no"):
        folder = tmp_path / choice
        options = ["--side-by-side", choice, "--output-dir", str(folder)]
        assert fkjax.commands.run.main([*SMALL, *argv, *options]) == 0
        records = {
            (r["strategy"], r["seed"], r["round"]): r for r in read_jsonl(folder)
        }
        assert len(records) == 8
        rows = sorted(tuple(row.values()) for row in read_queries(folder))
        found[choice] = records, rows
    assert found["yes"][1] == found["no"][1]
    for position, record in found["no"][0].items():
        other = found["yes"][0][position]
        for name in ("queried_per_class", "num_labeled", "num_mistakes", "num_random"):
            assert record[name] == other[name]
        assert abs(record["test_accuracy"] - other["test_accuracy"]) < 0.01
        assert other["seconds"].keys() == record["seconds"].keys()
    assert capsys.readouterr().err == ""


def test_seeds_are_side_by_side_where_that_pays(monkeypatch, digits):
    config = dataclasses.replace(defaults("digits"), seeds=3, seed=4)
    assert experiment.groups(config, digits) == [range(4, 5), range(5, 6), range(6, 7)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert experiment.groups(config, digits) == [range(4, 7)]
    alone = dataclasses.replace(config, side_by_side="no")
    assert len(experiment.groups(alone, digits)) == 3


def test_nothing_is_written_unasked(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def play_seeds(experiment, seeds, journal, progress):
        journal.records += finished.records

    monkeypatch.setattr(fkjax.commands.run, "play_seeds", play_seeds)
    assert fkjax.commands.run.main(SMALL) == 0
    captured = capsys.readouterr()
    assert "Nothing was written; --output-dir" in captured.out and captured.err == ""
    assert "fisher_nearest" in captured.out
    assert not list(tmp_path.iterdir())


# Errors


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
            ["asks for 2500 labels", "has 663 images", "lower either"],
        ),
        ("--imbalance-ratio 100000", ["ratio 100000 leaves class 5", "smaller ratio"]),
        ("--seeds 0", ["--seeds must be 1 or more, got 0."]),
        ("--rare-classes 3 12", ["rare class 12 is unknown; classes are 0 to 9"]),
        ("--validation-size 5000", ["balanced subset of 5000 needs 500", "at most"]),
        ("--tuning-size 240", ["tuning size 240", "below the validation size, 240"]),
        ("--checkpoint-selection tuning", ["--tuning-size is 0"]),
        ("--learning-rate nan", ["--learning-rate must be", "got nan."]),
        ("--strategies random bald", ["needs a model with dropout", "--dense-dropout"]),
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


def test_without_data_and_network_the_remedies_are_named_soon(tmp_path):
    code = "from fkjax import tfds; tfds._DOWNLOAD_HOST = 'https://no.invalid'; "
    since = time.perf_counter()
    argv = ["--dataset", "mnist", "--data-dir", tmp_path / "data"]
    status, out, err = finish(
        start_command(
            *argv, "--output-dir", tmp_path / "out", code=code + COMMAND, cwd=tmp_path
        )
    )
    assert time.perf_counter() - since < 15
    (line,) = err.splitlines()
    assert (status, out) == (2, "") and line.startswith("fkjax: mnist is not in ")
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


def test_ctrl_c_keeps_whole_rounds_and_says_so(tmp_path):
    folder = tmp_path / "run"
    argv = "--seeds 50 --rounds 20 --budget 2 --epochs 2 --pretraining none".split()
    argv += ["--strategies", "random", "--output-dir", folder]
    process = start_command(*argv)
    records = folder / "rounds.jsonl"
    until = time.monotonic() + 90
    while not (records.exists() and records.stat().st_size):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert status == 130
    assert err == "fkjax: interrupted.\n"
    assert out.splitlines()[-1] == f"Records and figures are in {folder}."
    rounds = [(r["seed"], r["round"]) for r in read_jsonl(folder)]
    expected = [(seed, number) for seed in range(50) for number in range(1, 21)]
    assert 1 <= len(rounds) < 1000 and rounds == expected[: len(rounds)]
    rows = [(int(q["seed"]), int(q["round"])) for q in read_queries(folder)]
    assert set(rounds) <= set(rows) and len(rows) - 2 * len(rounds) in (0, 2)
    assert (folder / "learning_curve.png").exists()


def test_an_interrupt_before_the_first_round(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fkjax.commands.run, "parse", interrupted)
    assert fkjax.commands.run.main([]) == 130
    assert capsys.readouterr().err == "fkjax: interrupted.\n"


def test_the_library_call_takes_a_configuration(monkeypatch):
    """`run(defaults(...))` is `main` without a command line."""
    seen = []
    monkeypatch.setattr(fkjax.commands.run, "run", seen.append)
    assert fkjax.commands.run.main(["--dataset", "mnist"]) == 0
    assert seen == [defaults("mnist")]
