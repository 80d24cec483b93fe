"""Labeling sessions that are stopped, damaged or given other settings."""

import base64
import json
import shutil

import numpy as np
import pytest

import fkjax.commands.label
from fkjax.runs.folder import RunFolder
from tests.labeling.session import fill, form, left_behind, records


@pytest.mark.parametrize("at", ["training", "commit", "question", "form"])
def test_a_process_that_is_stopped_goes_on_the_same(
    after, loop, world, at, monkeypatch
):
    out = after(0)
    world.answer(out)
    filled = (out / "to_label.csv").read_bytes()

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    where = {
        "training": ("fkjax.labeling.learner.make_driver", stop),
        "commit": ("fkjax.runs.journal.Track.commit", stop),
        "question": ("fkjax.labeling.loop.choose", stop),
        "form": ("fkjax.labeling.annotator.Desk._offer", stop),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*where[at])
        assert world.command(out) == 130
    assert (out / "to_label.csv").read_bytes() == filled
    assert len(records(out)) == (0 if at in ("training", "commit") else 1)
    if at == "commit":  # the answers are kept without the form
        (out / "to_label.csv").unlink()
    assert world.command(out) == 0
    assert left_behind(out) == left_behind(loop / "after-1")


def test_an_answer_that_is_changed_after_it_was_taken_is_told(after, world, capsys):
    out = after(1)
    (out / "to_label.csv").write_bytes(
        (out.parent / "out" / "answers.csv").read_bytes()
    )
    taken = form(out)
    other = "one" if taken[0]["label"] != "one" else "two"
    fill(out, [taken[0] | {"label": other}])
    before = left_behind(out)
    assert world.command(out) == 2
    assert f"{taken[0]['file']} was accepted as" in capsys.readouterr().err
    assert left_behind(out) == before


def test_a_damaged_checkpoint_costs_a_round_and_no_question(after, loop, world, capsys):
    out = after(1)
    (state,) = (out / "checkpoints").rglob("round-1/_METADATA")
    state.write_bytes(b"damaged")
    (out / "requests" / "round-2.json").unlink()
    assert world.command(out) == 0
    assert "round 1 cannot be used" in capsys.readouterr().err
    assert left_behind(out) == left_behind(loop / "after-1")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "5"], "--seed was 0 and is now 5"),
        (["--epochs", "3"], "--epochs was 2 and is now 3"),
        (["--strategy", "margin"], "--strategy was fisher_nearest and is now margin"),
        (["--new-classes", "?"], "'?' is reserved for images without a recognizable"),
        (["--strategy", "random", "margin"], "takes one strategy"),
        (["--strategy", "fisher_oracle"], "other than fisher_oracle"),
    ],
)
def test_other_settings_are_refused(after, world, capsys, more, said):
    out = after(0)
    before = left_behind(out)
    assert world.command(out, *more) == 2
    told = capsys.readouterr().err
    assert said in told and "add --overwrite" not in told
    assert left_behind(out) == before


def test_the_same_images_may_be_in_another_folder(after, world, capsys, tmp_path):
    images = shutil.copytree(world.images, tmp_path / "images")
    out = after(0)
    before = left_behind(out)
    assert world.command(out, "--images", str(images)) == 0
    assert capsys.readouterr().err == ""
    assert left_behind(out) == before


@pytest.mark.parametrize("missing", ["--images", "--labels", "--output-dir"])
def test_what_is_needed_is_said(world, tmp_path, capsys, missing):
    argv = ["--images", str(world.images)]
    argv += ["--labels", str(world.labels), "--output-dir", str(tmp_path / "out")]
    at = argv.index(missing)
    assert fkjax.commands.label.main([*argv[:at], *argv[at + 2 :]]) == 2
    assert f"{missing} is missing" in capsys.readouterr().err


def test_flags_of_experiments_are_none_of_labeling(world, tmp_path, capsys):
    for flags in (["--seeds", "2"], ["--overwrite"], ["--dataset", "mnist"]):
        with pytest.raises(SystemExit, match="2"):
            world.command(tmp_path / "out", *flags)
        assert "Unrecognized" in capsys.readouterr().err


def test_the_output_is_not_among_the_images(world, capsys):
    out = world.images / "out"
    assert world.command(out) == 2
    assert "where its files would become images" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_at_work_is_locked(after, world, capsys):
    out = after(0)
    with RunFolder.open(out).locked():
        assert world.command(out) == 2
    assert "another process uses" in capsys.readouterr().err


def test_label_studio_may_get_the_images_themselves(after, world):
    out = after(0)
    assert world.command(out, "--label-studio", "embedded") == 0
    for task in json.loads((out / "label_studio" / "tasks.json").read_text()):
        head, data = task["data"]["image"].split(",")
        file = world.images / task["data"]["file"]
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == file.read_bytes()


def test_a_test_set_is_reported_on_and_images_may_be_streamed(
    world, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("fkjax.data.labeled_folder.MEMORY", 0)
    out, labels = tmp_path / "out", tmp_path / "labels.csv"
    labels.write_text(world.labels.read_text().replace(",train", ",test"))
    argv = ["--labels", str(labels), "--strategy", "random", "--rounds", "1"]
    argv += ["--pretraining", "none"]
    for _ in range(2):
        assert world.command(out, *argv) == 0
        world.answer(out)
    assert "test accuracy" in capsys.readouterr().out
    (record,) = records(out)
    confusion = np.array(record["confusion"])
    assert record["measured_on"] == "test" and confusion.sum() == 14
    assert record["test_accuracy"] == pytest.approx(confusion.trace() / 14)
    assert record["validation_accuracy"] * 36 == pytest.approx(
        round(record["validation_accuracy"] * 36)
    )
    assert record["num_labeled"] == 3 and record["num_random"] == 4
