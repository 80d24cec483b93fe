"""Sessions whose images, labels and settings change between two commands."""

import csv
import json
import shutil

import pytest
from PIL import Image

from fkjax.commands import report
from fkjax.labeling.answers import CANNOT_TELL
from fkjax.runs.past_run import read_run
from tests.labeling.session import CLASSES, fill, form, left_behind, records


@pytest.fixture
def own(world, tmp_path):
    """The command with copies of the images and labels, which a test may change."""

    class Own:
        images = shutil.copytree(world.images, tmp_path / "images")
        labels = shutil.copyfile(world.labels, tmp_path / "labels.csv")

        def command(self, out, *more):
            place = "--images", str(self.images), "--labels", str(self.labels)
            return world.command(out, *place, *more)

        def edit(self, file, line):
            """Replaces the line of an image in labels.csv, or removes it."""
            lines = self.labels.read_text().splitlines()
            kept = [text for text in lines if not text.startswith(f"{file},")]
            self.labels.write_text("\n".join(kept + ([line] if line else [])) + "\n")

        def of(self, part):
            return sorted(f for f, where in world.known.items() if where == part)

    return Own()


def changes(out):
    path = out / "changes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def accepted(out):
    with (out / "answers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def past(out):
    """The files that describe past rounds."""
    return [(out / name).read_bytes() for name in ("queries.csv", "rounds.jsonl")]


def continues_past(before, out):
    return all(n.startswith(b) for b, n in zip(before, past(out), strict=True))


def test_the_ids_of_queries_are_those_of_images_jsonl(loop, world):
    lines = (loop / "out" / "images.jsonl").read_text().splitlines()
    images = [json.loads(line) for line in lines]
    assert [image["file"] for image in images] == sorted(world.truth)
    assert [image["id"] for image in images] == list(range(60))
    for image in images:
        part = world.known.get(image["file"], "")
        assert image["set"] == part and len(image["sha256"]) == 64
        assert image["label"] == (world.truth[image["file"]] if part else "")


def test_added_images_join_the_pool_and_past_ids_stay(after, world, own, capsys):
    out = after(2)
    before = past(out)
    names = [f"0/{i:02}.png" for i in range(22)]
    for i, name in enumerate(names):
        (own.images / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), i).save(own.images / name)
    argv = "--rounds", "3", "--budget", "9", "--strategy", "fisher_nearest"
    assert own.command(out, *argv) == 0
    said = capsys.readouterr()
    assert "added 22 images: 0/00.png, " in said.err
    assert "0/19.png and 2 more\n" in said.err
    assert "--budget was 4 and is now 9" in said.err
    assert "Round 3 waits for 9 answers" in said.out
    state = left_behind(out)
    assert own.command(out, *argv) == 0 and left_behind(out) == state
    assert capsys.readouterr().err == ""
    fill(out, [row | {"label": "one"} for row in form(out)])
    assert own.command(out, *argv) == 0
    assert read_run(out).config["budget"] == 9  # as a report reads it
    assert continues_past(before, out) and len(records(out)) == 3
    files = {i: f for i, f in enumerate(sorted(world.truth))}
    files |= {60 + i: name for i, name in enumerate(names)}
    with (out / "queries.csv").open(newline="") as file:
        queried = [files[int(row["id"])] for row in csv.DictReader(file)]
    assert queried == [row["file"] for row in accepted(out)]
    with_settings = [c for c in changes(out) if c["change"] != "added"]
    assert [(c["setting"], c["was"], c["value"]) for c in with_settings] == [
        ("budget", 4, 9),
        ("rounds", 2, 3),
    ]
    assert {c["after_round"] for c in changes(out)} == {2}


def test_moved_images_keep_labels_and_answers(after, world, own, capsys):
    out = after(1)
    done, waiting = accepted(out)[1]["file"], [row["file"] for row in form(out)]
    names = [*own.of("validation")[:3], *own.of("train")[:4], done, *waiting[:2]]
    for i, name in enumerate(names):
        (own.images / name).rename(own.images / f"{i}.png")
    rows = form(out)
    fill(
        out, [row | {"label": world.truth[row["file"]]} for row in rows[:3]] + rows[3:]
    )
    assert own.command(out) == 0  # with the old names in labels.csv
    said = capsys.readouterr()
    assert "10 images moved, with the labels and answers: " in said.err
    assert f"{names[0]} -> 0.png" in said.err
    assert f"waits for 1 of 4 answers ({waiting[3]})" in said.out
    new = dict(zip(names, (f"{i}.png" for i in range(10)), strict=True))
    assert [row["file"] for row in form(out)] == [new.get(f, f) for f in waiting]
    fill(out, [row | {"label": row["label"] or "one"} for row in form(out)])
    for name in names[:7]:  # with the new names in labels.csv
        own.edit(name, f"{new[name]},{world.truth[name]},{world.known[name]}")
    assert own.command(out) == 0
    assert capsys.readouterr().err == ""
    assert [r["num_labeled"] for r in records(out)] == [14 + 3, 14 + 7]
    asked = [row["file"] for row in accepted(out)]
    assert done in asked and asked[4:] == [new.get(f, f) for f in waiting]


def test_removed_images_are_kept_in_the_records_only(after, world, own, capsys):
    out = after(1)
    done, waiting = accepted(out)[1]["file"], [row["file"] for row in form(out)]
    world.answer(out, first="zero")
    fill(
        out,
        [
            row | {"label": ""} if row["file"] == waiting[2] else row
            for row in form(out)
        ],
    )
    gone = [own.of("train")[0], own.of("validation")[0], done, waiting[0], waiting[2]]
    kept = {name: (own.images / name).read_bytes() for name in gone}
    before = accepted(out)
    for name in gone:
        (own.images / name).unlink()
    assert own.command(out) == 0  # two of four were answered, and one is gone
    said = capsys.readouterr()
    assert "5 images no longer in the folder" in said.err
    assert all(name in said.err for name in gone)
    assert accepted(out)[:4] == before
    assert {row["file"] for row in accepted(out)[4:]} == {*waiting} - {waiting[2]}
    first, second = records(out)
    # Without the images of the train set and of both rounds that are gone.
    assert second["num_labeled"] == 14 - 1 + 3 - 1 + 2
    assert sum(map(sum, second["confusion"])) == 36 - 1
    for name, data in kept.items():
        (own.images / name).write_bytes(data)
    assert own.command(out, "--rounds", "3") == 0
    said = capsys.readouterr()
    assert "found 5 images again: " in said.err
    assert "Round 3 waits for 3 answers" in said.out


def test_a_request_without_any_image_left_is_made_again(after, own, capsys):
    out = after(0)
    rows = form(out)
    for row in rows:
        (own.images / row["file"]).unlink()
    assert own.command(out) == 0
    assert "4 images no longer in the folder" in capsys.readouterr().err
    assert not {r["file"] for r in rows} & {r["file"] for r in form(out)}


def test_corrected_labels_count_from_the_next_round(after, world, own, capsys):
    out = after(1)
    before = past(out)
    train, held_out = own.of("train")[0], own.of("validation")[0]
    wrong = {f: "two" if world.truth[f] == "one" else "one" for f in (train, held_out)}
    own.edit(train, f"{train},{wrong[train]},train")
    own.edit(held_out, f"{held_out},{wrong[held_out]},validation")
    answers = (out / "answers.csv").read_text().splitlines()
    number, done, old = answers[2].split(",")
    corrected = "zero" if old != "zero" else "one"
    answers[1] = answers[1].replace(CANNOT_TELL, "two")
    answers[2] = f"{number},{done},{corrected}"
    (out / "answers.csv").write_text("\n".join(answers) + "\n")
    assert own.command(out) == 0
    said = capsys.readouterr().err
    assert f"{train}: {world.truth[train]} (train) -> {wrong[train]} (train)" in said
    assert f"{held_out}: {world.truth[held_out]} (validation) -> " in said
    assert f"{done}: {old} -> {corrected}" in said and "can't tell -> two" in said
    assert own.command(out) == 0 and capsys.readouterr().err == ""
    world.answer(out, first="zero")
    assert own.command(out) == 0
    assert records(out)[1]["num_labeled"] == 14 + 8
    assert continues_past(before, out)
    (out / "answers.csv").unlink()  # written again from the records
    assert own.command(out) == 0
    assert (out / "answers.csv").read_text().splitlines()[:3] == answers[:3]


def test_a_line_that_is_removed_makes_an_image_unlabeled_again(after, own, capsys):
    out = after(1)
    train, answers = own.of("train")[0], (out / "answers.csv").read_text()
    own.edit(train, None)
    lines = answers.splitlines()
    (out / "answers.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert own.command(out) == 0
    said = capsys.readouterr().err
    assert f"{train}: " in said and "(train) -> none" in said
    assert "can't tell -> none, so that it can be asked again" in said
    own.edit(train, f"{train},,train")
    assert own.command(out) == 2
    assert "leave out images without a label" in capsys.readouterr().err


@pytest.mark.integration
def test_a_new_class_in_the_csv_file_extends_the_model(after, world, own, capsys):
    out = after(1)
    before = past(out)
    for i, text in enumerate(("four", "five")):
        Image.new("L", (8, 8), i).save(own.images / f"new{i}.png")
        own.edit(f"new{i}.png", f"new{i}.png,{text},train")
    assert own.command(out) == 0
    assert "new0.png (four, train), new1.png (five, train)" in capsys.readouterr().err
    world.answer(out, first="four")
    (out / "label_studio" / "tasks.json").unlink()
    assert own.command(out, "--rounds", "3") == 0
    assert continues_past(before, out)
    assert records(out)[1]["classes"] == [*CLASSES, "five", "four"]
    assert records(out)[1]["num_labeled"] == 14 + 3 + 2 + 4
    assert report.main([str(out), "--output", str(out.parent / "report.md")]) == 0


@pytest.mark.parametrize("change", ["joined", "left", "reused", "unknown class"])
def test_what_is_ambiguous_or_not_comparable_is_refused(after, own, capsys, change):
    out = after(1)
    first, second = own.of("validation")[:2]
    waiting = form(out)[0]["file"]
    if change == "joined":
        own.edit(waiting, f"{waiting},one,validation")
        said = f"validation set of {own.labels} has changed"
    elif change == "left":
        own.edit(first, None)
        said = f"these left it: {first}"
    elif change == "reused":  # the names of two images of different classes
        train = own.of("train")
        first, second = train[0], train[-1]
        (own.images / first).rename(own.images / "between.png")
        (own.images / second).rename(own.images / first)
        (own.images / "between.png").rename(own.images / second)
        said = "2 images have the names that other images had"
    else:
        text = (out / "answers.csv").read_text()
        (out / "answers.csv").write_text(text.replace(",two", ",tvo", 1))
        said = "unknown class 'tvo' (did you mean two?)"
    before = left_behind(out)
    assert own.command(out) == 2
    assert said in capsys.readouterr().err
    assert left_behind(out) == before


def test_a_form_with_answers_under_names_of_other_images_is_refused(
    after, world, own, capsys
):
    out = after(1)
    world.answer(out, first="one")
    a, b = (row["file"] for row in form(out)[:2])
    (own.images / a).rename(own.images / "between.png")
    (own.images / b).rename(own.images / a)
    (own.images / "between.png").rename(own.images / b)
    before = left_behind(out)
    assert own.command(out) == 2
    assert "has answers for images that were renamed" in capsys.readouterr().err
    assert left_behind(out) == before
    fill(out, [row | {"label": ""} for row in form(out)])
    assert own.command(out) == 0
    assert [row["file"] for row in form(out)[:2]] == [b, a]


def test_changed_content_and_colors_are_named(after, own, capsys):
    out = after(0)
    file = form(out)[0]["file"]
    Image.new("L", (8, 8), 7).save(own.images / file)
    assert own.command(out) == 0
    said = capsys.readouterr().err
    assert "1 image with another content than before" in said and file in said
    Image.new("RGB", (8, 8), "red").save(own.images / "red.png")
    fill(out, [row | {"label": "?"} for row in form(out)])
    assert own.command(out) == 2
    assert "red.png has colors" in capsys.readouterr().err


@pytest.mark.integration
def test_a_session_of_before_manifests_is_resumed(after, world, own, capsys):
    out = after(1)
    for name in ("images.jsonl", "normalization.jsonl"):
        (out / name).unlink()
    old = shutil.copytree(out, out.parent / "old")
    Image.new("L", (8, 8), 7).save(own.images / "a" / "more.webp")
    assert own.command(out) == 0
    assert "added 1 image: a/more.webp" in capsys.readouterr().err
    world.answer(out, first="one")
    assert own.command(out) == 0 and len(records(out)) == 2
    capsys.readouterr()
    Image.new("L", (8, 8), 7).save(own.images / "a" / "more.png")
    assert own.command(old) == 2
    assert "num_pool was 10 and is now 12" in capsys.readouterr().err
