"""A labeling session, from the folder of images to the last round."""

import csv
import json
import shutil

import numpy as np
import pytest

from fkjax.labeling.answers import CANNOT_TELL
from fkjax.runs.past_run import read_run
from tests.labeling.session import (
    BUDGET,
    CLASSES,
    ROUNDS,
    fill,
    form,
    left_behind,
    records,
)


def test_nothing_is_done_but_to_ask_at_first(loop, world):
    out = loop / "after-0"
    rows = form(out)
    assert list(rows[0]) == "file label guess confidence answers reason".split()
    assert len(rows) == BUDGET == len({row["file"] for row in rows})
    for row in rows:
        assert row["label"] == "" and row["file"] in world.truth.keys() - world.known
        assert row["guess"] in CLASSES and 0 <= float(row["confidence"]) <= 1
        assert world.known.get(row["answers"] or "?") in ("validation", None)
        assert row["answers"] in row["reason"] and row["reason"].endswith(".")
    tasks = json.loads((out / "label_studio" / "tasks.json").read_text())
    assert [task["data"]["file"] for task in tasks] == [row["file"] for row in rows]
    assert (out / "classes.txt").read_text().split() == CLASSES
    assert not records(out) and not (out / "answers.csv").exists()


def test_every_round_is_recorded_with_what_was_answered(loop, world):
    out = loop / "out"
    found = records(out)
    assert [r["round"] for r in found] == [1, 2]
    with (out / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == ROUNDS * BUDGET
    for number, record in enumerate(found, start=1):
        of_round = [row for row in rows if int(row["round"]) == number]
        said = [world.truth[row["file"]] for row in of_round[1:]]
        labels = [row["label"] for row in of_round]
        assert labels == [CANNOT_TELL, *said]
        assert record["queried_per_class"] == [said.count(name) for name in CLASSES]
        assert record["num_cannot_tell"] == 1
        assert (
            record["num_labeled"] == 14 + (BUDGET - 1) * number
        )  # 14 in the train set
        assert record["classes"] == CLASSES
        assert record["measured_on"] == "validation"
        assert record["test_accuracy"] is None
        confusion = np.array(record["confusion"])
        assert confusion.sum() == 36
        assert record["validation_accuracy"] == pytest.approx(confusion.trace() / 36)


def test_queries_are_listed_as_in_other_runs(loop, world):
    names = sorted(world.truth)
    with (loop / "out" / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        label = str(CLASSES.index(world.truth[names[int(row["id"])]]))
        assert row["label"] == ("" if i % BUDGET == 0 else label)
        assert world.known[names[int(row["target_id"])]] == "validation"
    assert len(rows) == ROUNDS * BUDGET


def test_it_ends_after_the_rounds_and_goes_on_until_the_pool_is_empty(
    loop, after, world, capsys
):
    out = after(2)
    before = left_behind(out)
    assert world.command(out) == 0
    assert "2 of --rounds 2 are done; raise it to continue" in capsys.readouterr().out
    assert left_behind(out) == before
    assert world.command(out, "--rounds", "9") == 0
    assert "Round 3 waits for 2 answers" in capsys.readouterr().out
    world.answer(out)
    assert world.command(out, "--rounds", "9") == 0
    assert "the pool is empty" in capsys.readouterr().out
    assert records(out)[-1]["num_labeled"] == 14 + 3 + 3 + 1


def test_the_same_command_gives_the_same_bytes(loop, world, tmp_path):
    out = tmp_path / "out"
    assert world.command(out) == 0
    (files, _), (others, _) = left_behind(out), left_behind(loop / "after-0")
    del files["config.json"], others["config.json"]  # contains the folder
    assert files == others


def test_a_command_without_answers_changes_nothing(after, world, capsys, monkeypatch):
    monkeypatch.setattr("fkjax.labeling.loop.load_images", None)  # no image is read
    out = after(1)
    before = left_behind(out)
    assert world.command(out) == 0
    assert "Round 2 waits for 4 answers (" in capsys.readouterr().out
    assert left_behind(out) == before


def test_missing_answers_are_waited_for(after, world, capsys):
    out = after(0)
    world.answer(out, first="")
    first, *rest = form(out)
    before = left_behind(out)
    assert world.command(out) == 0
    assert f"waits for 1 of 4 answers ({first['file']})" in capsys.readouterr().out
    fill(out, rest)  # the line was deleted
    assert world.command(out) == 0
    assert f"waits for 1 of 4 answers ({first['file']})" in capsys.readouterr().out
    fill(out, [first, *rest])
    assert left_behind(out) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: rows[0].update(label="onne"),
            "unknown class 'onne' (did you mean one?)",
        ),
        (lambda rows: rows[0].update(file="x.png"), "x.png was not requested"),
        (
            lambda rows: rows.append(rows[0] | {"label": "two"}),
            ": no answers were accepted",
        ),
    ],
    ids=["unknown class", "extra file", "disagreement"],
)
def test_wrong_answers_are_told_and_nothing_is_lost(after, world, capsys, change, said):
    out = after(0)
    world.answer(out, first="zero")
    rows = form(out)
    change(rows)
    fill(out, rows)
    before = left_behind(out)
    assert world.command(out) == 2
    told = capsys.readouterr().err
    assert told.startswith("fkjax: ") and said in told and told.count("\n") == 1
    assert left_behind(out) == before


@pytest.mark.parametrize("file", ["to_label.csv", "label_studio/export.json"])
def test_a_damaged_file_is_told_and_kept(after, world, capsys, file):
    out = after(0)
    (out / file).write_bytes(b"\xff\xfe{")
    before = left_behind(out)
    assert world.command(out) == 2
    assert file in capsys.readouterr().err
    assert left_behind(out) == before


def test_a_form_that_was_deleted_is_written_again(after, world):
    out = after(1)
    before = left_behind(out)
    (out / "to_label.csv").unlink()
    shutil.rmtree(out / "label_studio")
    assert world.command(out) == 0
    assert left_behind(out) == before


def test_answers_may_come_from_label_studio(after, loop, world):
    out = after(0)
    tasks = json.loads((out / "label_studio" / "tasks.json").read_text())
    for number, task in enumerate(tasks):
        label = world.truth[task["data"]["file"]] if number else CANNOT_TELL
        result = {"from_name": "label", "value": {"choices": [label]}}
        task |= {"id": number, "annotations": [{"result": [result]}]}
    (out / "label_studio" / "export.json").write_text(json.dumps(tasks))
    assert world.command(out) == 0
    files, found = left_behind(out)
    files.pop("label_studio/export.json")
    expected, records_of_form = left_behind(loop / "after-1")
    assert (files, found) == (expected, records_of_form)


def test_a_new_class_is_taken_when_it_is_announced(after, world, capsys):
    out = after(1)
    world.answer(out, first="three")
    assert world.command(out) == 2
    assert "unknown class 'three'" in capsys.readouterr().err
    before = records(out)
    both = shutil.copytree(out, out.parent / "both")
    with (out / "classes.txt").open("a") as file:
        file.write("three\n")
    assert world.command(out) == 0
    first, record = records(out)
    assert [first] == before and first["classes"] == CLASSES
    assert record["classes"] == [*CLASSES, "three"] and record["num_cannot_tell"] == 0
    assert np.shape(record["confusion"]) == (4, 4)
    assert record["queried_per_class"][3] == 1
    capsys.readouterr()
    assert world.command(both, "--new-classes", "three", "--rounds", "3") == 0
    assert "Round 3 waits for 2" in capsys.readouterr().out
    assert records(both) == records(out)
    assert 'value="three"' in (both / "label_studio" / "config.xml").read_text()
    first, last = read_run(out).records  # as a report reads them
    assert np.shape(first["confusion"]) == np.shape(last["confusion"]) == (4, 4)
    assert first["class_accuracy"][3] is None and first["queried_per_class"][3] == 0


def test_one_of_each_exact_copy_is_asked_for(world, tmp_path, capsys):
    images = shutil.copytree(world.images, tmp_path / "images")
    pool = sorted(world.truth.keys() - world.known)
    for i, file in enumerate(pool):
        for j in range(3):
            shutil.copyfile(images / file, images / f"copy-{i}-{j}.png")
    for j, file in enumerate(sorted(world.known)[:9]):
        shutil.copyfile(images / file, images / f"known-{j}.png")

    def asked(name, *more):
        assert not world.command(tmp_path / name, "--images", str(images), *more)
        return [row["file"] for row in form(tmp_path / name)]

    assert sorted(asked("out", "--budget", "10")) == pool  # named before the copies
    said = "".join(capsys.readouterr()).replace("\n", " ")
    assert "30 of 49 unlabeled examples are exact copies of others" in said
    assert len(asked("all", "--budget", "49", "--keep-copies")) == 49
    assert "exact cop" not in "".join(capsys.readouterr())
