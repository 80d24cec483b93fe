"""The command from end to end, on the digits."""

import json
import signal
import time

import jax
import numpy as np
import pytest

import fkjax.commands.run
from fkjax.data import splits
from fkjax.experiment import play as experiment
from fkjax.experiment.config import Config
from fkjax.experiment.presets import defaults
from fkjax.experiment.resuming import LABELING_SETTINGS
from fkjax.models import MODELS
from tests.commands.command import (
    SMALL,
    finish,
    read_jsonl,
    read_queries,
    start_command,
)
from tests.tiny import ARCHITECTURE


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
    fields = set(Config.__dataclass_fields__) - {*LABELING_SETTINGS}
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


def test_nothing_is_written_unasked(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def play_seeds(experiment, seeds, journal, progress):
        journal.records += finished.records

    monkeypatch.setattr(fkjax.commands.run, "play_seeds", play_seeds)
    assert fkjax.commands.run.main(SMALL) == 0
    captured = capsys.readouterr()
    assert "Nothing was saved: use --output-dir" in captured.out and captured.err == ""
    assert "fisher_nearest" in captured.out
    assert not list(tmp_path.iterdir())


def test_an_interrupt_keeps_whole_rounds_and_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)
    rounds = experiment.play

    def interrupted(*args, **kwargs):
        yield next(iter(rounds(*args, **kwargs)))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "play", interrupted)
    folder = tmp_path / "run"
    argv = [*SMALL, "--model", "tiny", "--pretraining", "none"]
    argv += ["--strategies", "random", "--output-dir", str(folder)]
    assert fkjax.commands.run.main(argv) == 130
    captured = capsys.readouterr()
    assert captured.err == "fkjax: interrupted\n"
    assert captured.out.splitlines()[-1] == f"Records and figures are in {folder}."
    assert [r["round"] for r in read_jsonl(folder)] == [1]
    assert len(read_queries(folder)) == 5
    assert (folder / "learning_curve.png").exists()


@pytest.mark.integration
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
    assert err == "fkjax: interrupted\n"
    assert out.splitlines()[-1] == f"Records and figures are in {folder}."
    rounds = [(r["seed"], r["round"]) for r in read_jsonl(folder)]
    expected = [(seed, number) for seed in range(50) for number in range(21)]
    assert 1 <= len(rounds) < 1050 and rounds == expected[: len(rounds)]
    rows = [(int(q["seed"]), int(q["round"])) for q in read_queries(folder)]
    queried = [(seed, number) for seed, number in rounds if number > 0]
    assert set(queried) <= set(rows) and len(rows) - 2 * len(queried) in (0, 2)
    assert (folder / "learning_curve.png").exists()


def test_an_interrupt_before_the_first_round(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fkjax.commands.run, "parse", interrupted)
    assert fkjax.commands.run.main([]) == 130
    assert capsys.readouterr().err == "fkjax: interrupted\n"


def test_the_library_call_takes_a_configuration(monkeypatch):
    """`run(defaults(...))` is `main` without a command line."""
    seen = []
    monkeypatch.setattr(fkjax.commands.run, "run", seen.append)
    assert fkjax.commands.run.main(["--dataset", "mnist"]) == 0
    assert seen == [defaults("mnist")]
