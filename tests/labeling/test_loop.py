"""A labeling session, from the folder of images to the last round."""

import base64
import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fkjax.commands.run
from fkjax.base import Model, Variables, no_tap
from fkjax.labeling.answers import CANNOT_TELL
from fkjax.models import MODELS, Architecture
from fkjax.runs.past_run import read_run

BUDGET, ROUNDS = 4, 2
CLASSES = ["one", "two", "zero"]
NAMES = ("zero", "one", "two")


def dense(image_shape, num_classes, *, mean, std, conv_dropout, dense_dropout):
    """Two dense layers, which compile fast."""
    sizes = {"hidden": (np.prod(image_shape), 16), "out": (16, num_classes)}

    def init(key):
        keys = zip(sizes, jax.random.split(key), strict=True)
        return Variables({n: 0.2 * jax.random.normal(k, sizes[n]) for n, k in keys})

    def apply(variables, images, tap=no_tap):
        x = (images / 255 - jnp.asarray(mean)) / jnp.asarray(std)
        x = x.reshape(len(images), -1) @ variables.parameters["hidden"]
        return jnp.tanh(tap("hidden", x)) @ variables.parameters["out"]

    return Model(init, apply, ("hidden",), "out", tuple(image_shape), num_classes)


class World:
    """60 digits in subfolders, 10 of them in the pool, and a person who labels them.

    Attributes:
        truth: class of each file.
        known: set of each file in labels.csv.
    """

    def __init__(self, home, digits):
        self.images, self.labels = home / "images", home / "labels.csv"
        self.truth, self.known = {}, {}
        for c, (name, in_pool) in enumerate(zip(NAMES, (4, 3, 3), strict=True)):
            for i, at in enumerate(np.flatnonzero(digits.train_labels == c)[:20]):
                file = f"{'ab'[i % 2]}/{at}.png"
                path = self.images / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(digits.train_images[at, ..., 0]).save(path)
                self.truth[file] = name
                if i < 20 - in_pool:
                    self.known[file] = "validation" if i < 12 else "train"
        rows = [
            f"{file},{self.truth[file]},{part}" for file, part in self.known.items()
        ]
        self.labels.write_text("\n".join(["file,label,set", *rows]))

    def command(self, out, *more):
        settings = f"--budget {BUDGET} --rounds {ROUNDS} --epochs 2 --model dense"
        settings += " --pretraining-epochs 1"
        return fkjax.commands.run.main(
            [
                *("--images", str(self.images), "--labels", str(self.labels)),
                *("--oracle", "file", "--output-dir", str(out), "--image-size", "8"),
                *settings.split(),
                *more,
            ]
        )

    def answer(self, out, first="?"):
        """Fills in the form: the first line as given, the others correctly."""
        rows = [row | {"label": self.truth[row["file"]]} for row in form(out)]
        fill(out, [rows[0] | {"label": first}, *rows[1:]])


def form(out):
    with (out / "to_label.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fill(out, rows):
    with (out / "to_label.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def records(out):
    path = out / "rounds.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    for record in found:
        del record["seconds"], record["peak_memory_mb"]
    return found


def left_behind(out):
    """Returns the files of a run without times, memory and arrays dated by Orbax."""
    files = {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
        and "checkpoints" not in path.parts
        and path.name != "rounds.jsonl"
    }
    return files, records(out)


@pytest.fixture(scope="module")
def world(tmp_path_factory, digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "dense", Architecture(dense, ("hidden",), 0.0, 0.0))
        yield World(tmp_path_factory.mktemp("labelling"), digits)


@pytest.fixture(scope="module")
def loop(world, tmp_path_factory):
    """A folder as it was after each command, the first without answers."""
    home = tmp_path_factory.mktemp("loop")
    out = home / "out"
    for number in range(ROUNDS + 1):
        if number:
            world.answer(out)
        assert world.command(out) == 0
        shutil.copytree(out, home / f"after-{number}")
    return home


@pytest.fixture
def after(loop, tmp_path):
    """Copies the folder after a command, always to the same place."""

    def after(number):
        out = tmp_path / "out"
        shutil.copytree(loop / f"after-{number}", out)
        return out

    return after


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
    assert (
        "2 of --rounds 2 are done; a larger number goes on" in capsys.readouterr().out
    )
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
        "training": ("fkjax.labeling.loop.make_driver", stop),
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
    assert "round 1 is not used" in capsys.readouterr().err
    assert left_behind(out) == left_behind(loop / "after-1")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--budget", "5"], "budget was 4 and is now 5"),
        (["--epochs", "3"], "epochs was 2 and is now 3"),
        (["--overwrite"], "--overwrite True cannot be used with --oracle file"),
        (["--new-classes", "?"], "'?' is reserved for images without a recognizable"),
        (["--strategies", "random", "margin"], "takes one strategy"),
        (["--strategies", "fisher_oracle"], "other than fisher_oracle"),
        (["--seeds", "2"], "--seeds 2 cannot be used with --oracle file"),
    ],
)
def test_other_settings_are_refused(after, world, capsys, more, said):
    out = after(0)
    before = left_behind(out)
    assert world.command(out, *more) == 2
    told = capsys.readouterr().err
    assert said in told and "add --overwrite" not in told
    assert left_behind(out) == before


def test_another_folder_of_images_is_refused(after, world, capsys, tmp_path):
    images = shutil.copytree(world.images, tmp_path / "images")
    out = after(0)
    assert world.command(out, "--images", str(images)) == 0  # the same images elsewhere
    Image.new("L", (8, 8)).save(images / "more.png")
    capsys.readouterr()
    assert world.command(out, "--images", str(images)) == 2
    assert "num_pool was 10 and is now 11" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["--images", "--labels", "--output-dir"])
def test_what_is_needed_is_said(world, tmp_path, capsys, missing):
    argv = ["--oracle", "file", "--images", str(world.images)]
    argv += ["--labels", str(world.labels), "--output-dir", str(tmp_path / "out")]
    at = argv.index(missing)
    assert fkjax.commands.run.main([*argv[:at], *argv[at + 2 :]]) == 2
    assert f"{missing} is missing" in capsys.readouterr().err


def test_labels_of_a_person_take_the_oracle_that_is_one(world, tmp_path, capsys):
    assert fkjax.commands.run.main(["--labels", str(world.labels)]) == 2
    assert "add --oracle file" in capsys.readouterr().err
    out = world.images / "out"
    assert world.command(out) == 2
    assert "would be taken for images" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_at_work_is_locked(after, world, capsys):
    out = after(0)
    with fkjax.commands.run.RunFolder.open(out).locked():
        assert world.command(out) == 2
    assert "Another process is at work" in capsys.readouterr().err


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
    argv = ["--labels", str(labels), "--strategies", "random", "--rounds", "1"]
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
