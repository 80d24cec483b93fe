import json
import os

import pytest

from fkjax.base import UserError
from fkjax.report import comparison
from tests.records import grid, one_sentence, record, write_run


def names(found):
    return [s.name for s in found.strategies]


def test_one_finished_run(tmp_path):
    write_run(tmp_path / "run", grid(["a", "b"], 2, 3))
    found = comparison.read([tmp_path / "run"])
    assert (found.dataset, names(found), found.notes) == ("digits", ["a", "b"], [])
    a = found.strategies[0]
    assert sorted(a.seeds) == [0, 1] and a.num_labeled == [100, 200, 300]
    assert a.values("round") == [[0, 1, 2]] * 2
    assert comparison.differing_settings(found.experiments) == {}


def test_a_folder_for_each_seed_is_one_experiment(tmp_path):
    for seed in range(3):
        write_run(
            tmp_path / f"seed-{seed}",
            [record(seed=seed, round=r) for r in range(2)],
            seed=seed,
        )
    found = comparison.read([tmp_path / f"seed-{seed}" for seed in (2, 0, 1)])
    assert names(found) == ["fisher"] and len(found.experiments) == 1
    assert list(found.strategies[0].seeds) == [0, 1, 2]
    assert found.experiments[0].name == tmp_path.name


def test_other_settings_are_named_apart(tmp_path):
    write_run(tmp_path / "50" / "s", grid(["a", "b"], 1, 2), validation_size=50)
    records = grid(["a", "c"], 1, 2)
    write_run(tmp_path / "90" / "s", records, validation_size=90, newer=1)
    found = comparison.read([tmp_path / "50" / "s", tmp_path / "90" / "s"])
    assert names(found) == ["a (50/s)", "b", "a (90/s)", "c"]
    assert [s.original for s in found.strategies] == ["a", "b", "a", "c"]
    (note,) = found.notes
    assert note.startswith("a: results of 50/s, 90/s are kept apart because")
    assert "validation_size: 50, 90" in note
    differing = comparison.differing_settings(found.experiments)
    assert differing == {"validation_size": [50, 90]}


def test_experiments_of_several_folders_are_named_by_what_holds_them(tmp_path):
    for size in (50, 90):
        for seed in (0, 1):
            folder = tmp_path / str(size) / f"seed-{seed}"
            write_run(folder, [record(seed=seed)], budget=size)
    folders = sorted(tmp_path.glob("*/*"))
    found = comparison.read(folders)
    assert names(found) == ["fisher (50)", "fisher (90)"]
    for folder in folders:  # all four are in one folder: named by their first
        os.rename(folder, tmp_path / f"{folder.parent.name}{folder.name}")
    found = comparison.read(sorted(tmp_path.glob("?0seed*")))
    assert names(found) == ["fisher (50seed-0)", "fisher (90seed-0)"]


def test_repeated_seeds_are_not_mixed(tmp_path):
    for name in "xy":
        write_run(tmp_path / name, grid(["a"], 2, 1))
    found = comparison.read([tmp_path / "x", tmp_path / "y"])
    assert names(found) == ["a (x)", "a (y)"]
    assert "repeat seeds" in found.notes[0]


def test_where_and_when_it_ran_is_no_setting(tmp_path):
    first = {"data_dir": "one", "versions": {"jax": "1"}, "seed": 0, "overwrite": True}
    second = {"data_dir": "two", "versions": {"jax": "2"}, "seed": 1, "newer": True}
    write_run(tmp_path / "x", [record(seed=0)], **first)
    write_run(tmp_path / "y", [record(seed=1)], **second)
    found = comparison.read([tmp_path / "x", tmp_path / "y"])
    assert names(found) == ["fisher"] and len(found.experiments[0].runs) == 2


def test_an_unfinished_run_says_what_is_used(tmp_path):
    records = grid(["a", "b"], 3, 4)[:-3]  # seed 2 of b has one round
    write_run(tmp_path / "run", records, rounds=4, seeds=3)
    found = comparison.read([tmp_path / "run"])
    assert [s.num_labeled for s in found.strategies] == [[100, 200, 300, 400], [100]]
    unfinished, used = found.notes
    assert "5 of 6 combinations of strategy and seed are complete" in unfinished
    assert used.startswith("b: only the one round that") and "seed 2 has" in used
    found = comparison.read([tmp_path / "run"], seeds=[0, 1])
    assert [len(s.num_labeled) for s in found.strategies] == [4, 4]
    assert len(found.notes) == 1


def test_what_a_stop_rule_ended_is_finished(tmp_path):
    records = grid(["a"], 2, 4)[:-1]
    records[-1]["stop"] = "plateau"
    write_run(tmp_path / "run", records)
    (note,) = comparison.read([tmp_path / "run"]).notes
    assert note == (
        "a: only the 3 rounds that all seeds have reached are used; seed 1 has fewer "
        "than 4 rounds because of the stop rule. Use --seeds to leave out seeds."
    )


def test_seeds_that_share_no_round(tmp_path):
    write_run(tmp_path / "run", [record(seed=0, round=0), record(seed=1, round=1)])
    with pytest.raises(UserError, match="--seeds") as error:
        comparison.read([tmp_path / "run"])
    assert one_sentence(error)


def damaged(path, name):
    """Damages the run in a folder in one way."""
    records = path / "rounds.jsonl"
    changes = {
        "class_accuracy": [0.5],
        "confusion": [[1, 2, 3]],
        "seconds": {"query": "long"},
        "test_accuracy": "high",
        "round": None,
        "queried_per_class": [1, 2, "3"],
        "peak_memory_mb": 70.0,
        "strategy": 7,
    }
    if name in changes:
        records.write_text(json.dumps(record() | {name: changes[name]}) + "\n")
    elif name == "config":
        (path / "config.json").write_text("{")
    elif name == "config.dataset":
        (path / "config.json").write_text("[]")
    elif name == "json":
        records.write_text("{\n")
    elif name == "list":
        records.write_text("[1]\n")
    elif name == "empty":
        records.unlink()
    elif name == "other dataset":
        records.write_text(json.dumps(record(dataset="mnist")) + "\n")


@pytest.mark.parametrize(
    "name",
    "class_accuracy confusion seconds test_accuracy round queried_per_class "
    "peak_memory_mb strategy config config.dataset json list empty".split()
    + ["other dataset"],
)
def test_damage_is_told(tmp_path, name):
    write_run(tmp_path / "run", [record()])
    damaged(tmp_path / "run", name)
    with pytest.raises(UserError) as error:
        comparison.read([tmp_path / "run"])
    assert one_sentence(error) and str(tmp_path / "run") in str(error.value)


def test_what_cannot_be_compared_is_refused(tmp_path):
    write_run(tmp_path / "a", [record()])
    write_run(tmp_path / "b", [record(dataset="mnist")], dataset="mnist")
    write_run(tmp_path / "c", [record(classes=4)])
    write_run(tmp_path / "d", [record(seed=1)], data="one")
    write_run(tmp_path / "e", [record(seed=2)], data="other")
    here = tmp_path / "a"
    for paths in (
        [],
        [tmp_path / "none"],
        [here, tmp_path / "b"],
        [here, tmp_path / "c"],
        [here, here / ".." / "a"],
        [here, tmp_path / "d", tmp_path / "e"],
    ):
        with pytest.raises(UserError) as error:
            comparison.read(paths)
        assert one_sentence(error)
    with pytest.raises(UserError, match="seeds 7") as error:
        comparison.read([here], seeds=[7])
    assert one_sentence(error)
