"""Settings of a run reach its rounds: runs of a tiny network."""

import dataclasses
import json

import jax
import pytest

import fkjax.commands.run
from fkjax.experiment import play as experiment
from fkjax.experiment.presets import defaults
from fkjax.models import MODELS, Architecture
from tests.commands.command import SMALL as OF_LENET
from tests.commands.command import read_jsonl, read_queries
from tests.tiny import ARCHITECTURE, tiny

SMALL = [*OF_LENET, "--model", "tiny"]


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)


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
    argv += "--ensemble 2 --passes 4 --random-share 0.4 --validation-role train".split()
    assert fkjax.commands.run.main([*SMALL, *argv, "--output-dir", str(folder)]) == 0
    records = read_jsonl(folder)
    # Nothing in round 0, then 0.4 of 5: the first model has learned from labels, too.
    assert [r["num_random"] for r in records] == [0, 2, 2]
    for r in records:
        assert len(r["member_accuracy"]) == 2
        assert r["member_accuracy"][0] != r["member_accuracy"][1]
        # 100 validation images teach more than 5 labels can.
        assert r["test_accuracy"] > 0.15


def test_a_model_of_ones_own_is_one_entry(monkeypatch, tmp_path):
    own = Architecture(tiny, ("fc1", "logits"), conv_dropout=0.0, dense_dropout=0.5)
    monkeypatch.setitem(MODELS, "own", own)
    folder = tmp_path / "run"
    argv = [*SMALL, "--model", "own", "--pretraining", "none"]
    argv += ["--strategies", "fisher_nearest", "--output-dir", str(folder)]
    assert fkjax.commands.run.main(argv) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["taps"] == ["fc1", "logits"] and config["dense_dropout"] == 0.5
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
