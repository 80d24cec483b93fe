import csv
import errno
import io
import json
import os
import sys
import threading

import numpy as np
import pytest
import rich.console
from matplotlib.image import imread

from fkjax import reporting
from fkjax.base import UserError


def record(strategy="fisher", seed=0, round=0, accuracy=0.5, classes=3, **extra):
    confusion = np.full((classes, classes), 1) + 8 * np.eye(classes, dtype=int)
    return {
        "dataset": "digits",
        "strategy": strategy,
        "seed": seed,
        "round": round,
        "num_labeled": 100 * (round + 1),
        "test_accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.1,
        "class_accuracy": [accuracy - 0.2] + [accuracy] * (classes - 1),
        "queried_per_class": [1] * classes,
        "confusion": confusion.tolist(),
        "checkpoint_selection": "last",
        "num_random_filled": 0,
        "num_mistakes": 3,
        "seconds": {"query": 1.0, "update": 2.0},
        **extra,
    }


def grid(strategies, seeds, rounds, **extra):
    return [
        record(s, seed, r, 0.5 + 0.04 * r + 0.01 * seed + 0.02 * k, **extra)
        for k, s in enumerate(strategies)
        for seed in range(seeds)
        for r in range(rounds)
    ]


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and text[0].isupper()


# The folder.


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path):
    folder = reporting.RunFolder.create(tmp_path / "a" / "b")
    assert list(folder.path.iterdir()) == []
    assert reporting.RunFolder.create(tmp_path / "a" / "b") == folder


@pytest.mark.parametrize("where", ["full", "full/file", "full/file/below"])
def test_create_refuses(tmp_path, where):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    with pytest.raises(UserError) as error:
        reporting.RunFolder.create(tmp_path / where)
    assert one_sentence(error) and str(tmp_path / where) in str(error.value)
    assert (tmp_path / "full" / "file").read_text() == "precious"


def test_create_refuses_what_cannot_be_written(tmp_path, monkeypatch):
    def deny(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(reporting.tempfile, "TemporaryFile", deny)
    with pytest.raises(UserError, match="Permission denied") as error:
        reporting.RunFolder.create(tmp_path / "new")
    assert one_sentence(error)


def test_open_wants_a_run(tmp_path):
    with pytest.raises(UserError, match="config.json") as error:
        reporting.RunFolder.open(tmp_path)
    assert one_sentence(error)
    reporting.RunFolder(tmp_path).write_config({})
    assert reporting.RunFolder.open(tmp_path).read_config() == {}


def test_config_is_sorted_and_replaced_whole(tmp_path, monkeypatch):
    folder = reporting.RunFolder.create(tmp_path / "run")
    folder.write_config({"b": (1, np.float32(0.5)), "a": tmp_path, "c": "größe"})
    text = (folder.path / "config.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["a", "b", "c"]
    assert folder.read_config() == {"a": str(tmp_path), "b": [1, 0.5], "c": "größe"}
    assert "größe" in text

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left") as error:
        folder.write_config({"other": 1})
    assert one_sentence(error)
    assert (folder.path / "config.json").read_text(encoding="utf-8") == text
    assert [p.name for p in folder.path.iterdir()] == ["config.json"]


def test_records_round_trip_and_nan_becomes_null(tmp_path):
    folder = reporting.RunFolder.create(tmp_path)
    first = record(class_accuracy=np.array([0.5, np.nan, np.inf]), seed=np.int32(3))
    folder.append_record(first)
    folder.append_record(record(round=1, strategy="größe\u2028\udc80"))
    lines = (tmp_path / "rounds.jsonl").read_bytes().split(b"\n")
    assert len(lines) == 3 and lines[-1] == b""
    read = folder.read_records()
    assert read[0] == {**first, "class_accuracy": [0.5, None, None], "seed": 3}
    assert read[1]["strategy"] == "größe\u2028\udc80"


def test_no_records_yet(tmp_path):
    assert reporting.RunFolder.create(tmp_path).read_records() == []


def test_a_torn_line_is_left_out_and_then_overwritten(tmp_path):
    folder = reporting.RunFolder.create(tmp_path)
    folder.append_record(record())
    whole = (tmp_path / "rounds.jsonl").read_bytes()
    (tmp_path / "rounds.jsonl").write_bytes(whole + whole[:40])
    assert len(folder.read_records()) == 1
    folder.append_record(record())
    assert (tmp_path / "rounds.jsonl").read_bytes() == whole + whole


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "rounds.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(UserError, match="line 2") as error:
        reporting.RunFolder(tmp_path).read_records()
    assert one_sentence(error)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    folder = reporting.RunFolder.create(tmp_path)
    folder.append_record(record())
    whole = (tmp_path / "rounds.jsonl").read_bytes()

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left") as error:
        folder.append_record(record(round=1))
    assert one_sentence(error)
    assert (tmp_path / "rounds.jsonl").read_bytes() == whole


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file size")
def test_a_short_write_leaves_whole_lines(tmp_path):
    import resource
    import signal

    folder = reporting.RunFolder.create(tmp_path)
    folder.append_record(record())
    whole = (tmp_path / "rounds.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
    try:
        with pytest.raises(UserError):
            folder.append_record(record(round=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "rounds.jsonl").read_bytes() == whole


def test_a_reader_beside_the_writer_sees_only_whole_lines(tmp_path):
    # The kernel may show half a write to a reader, so the reader has its part too.
    folder = reporting.RunFolder.create(tmp_path)
    done, wrong = threading.Event(), []

    def watch():
        while not done.is_set():
            try:
                rounds = [r["round"] for r in folder.read_records()]
            except UserError as error:
                wrong.append(error)
            else:
                wrong.extend([rounds] if rounds != list(range(len(rounds))) else [])

    reader = threading.Thread(target=watch)
    reader.start()
    for number in range(30):
        folder.append_record(record(round=number, confusion=np.ones((50, 50))))
    done.set()
    reader.join()
    assert not wrong and len(folder.read_records()) == 30


def test_queries(tmp_path):
    folder = reporting.RunFolder.create(tmp_path)
    for number in range(2):
        folder.append_queries(
            np.array([7, 9]),
            [1, 2],
            [1, -1],
            [-1, 4],
            strategy="=x,y",
            seed=0,
            round=number,
        )
    text = (tmp_path / "queries.csv").read_text(encoding="utf-8")
    assert text.endswith("\n") and "\r" not in text
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        "strategy,seed,round,id,label,pseudo_label,target_id".split(","),
        ["'=x,y", "0", "0", "7", "1", "1", ""],
        ["'=x,y", "0", "0", "9", "2", "", "4"],
        ["'=x,y", "0", "1", "7", "1", "1", ""],
        ["'=x,y", "0", "1", "9", "2", "", "4"],
    ]
    with pytest.raises(ValueError, match="shorter"):
        folder.append_queries([7, 9], [1], [1], [1], strategy="x", seed=0, round=2)
    assert (tmp_path / "queries.csv").read_text(encoding="utf-8") == text


def test_rewind_and_repeat_gives_the_same_bytes(tmp_path):
    folder = reporting.RunFolder.create(tmp_path)

    def play(strategy, number):
        ids = [number, number + 1]
        folder.append_record(record(strategy, round=number))
        folder.append_queries(
            ids, ids, ids, ids, strategy=strategy, seed=0, round=number
        )

    folder.rewind(strategy="a", seed=0, round=0)  # nothing there yet
    for strategy in ("-a", "b"):
        for number in range(3):
            play(strategy, number)
    names = ("rounds.jsonl", "queries.csv")
    before = [(tmp_path / name).read_bytes() for name in names]
    folder.rewind(strategy="b", seed=0, round=1)
    kept = [(r["strategy"], r["round"]) for r in folder.read_records()]
    assert kept == [("-a", 0), ("-a", 1), ("-a", 2), ("b", 0)]
    for number in (1, 2):
        play("b", number)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    folder.rewind(strategy="-a", seed=0, round=0)
    assert {r["strategy"] for r in folder.read_records()} == {"b"}
    assert "-a" not in (tmp_path / "queries.csv").read_text(encoding="utf-8")


# Curves and tables.


def test_curves_by_hand():
    given = {(1, 1): 0.9, (1, 0): 0.6, (0, 1): 0.7, (0, 0): 0.5}
    records = [record(seed=s, round=r, accuracy=a) for (s, r), a in given.items()]
    curve = reporting.learning_curves(records)["fisher"]
    np.testing.assert_array_equal(curve.num_labeled, [100, 200])
    np.testing.assert_allclose(curve.mean, [0.55, 0.8])
    np.testing.assert_allclose(curve.std, [np.sqrt(0.005), np.sqrt(0.02)])
    np.testing.assert_allclose(curve.low, [0.5, 0.7])
    np.testing.assert_allclose(curve.high, [0.6, 0.9])
    assert curve.accuracy.shape == (2, 2) and curve.num_seeds.tolist() == [2, 2]


def test_curves_of_an_unfinished_run_use_the_seeds_there_are(recwarn):
    records = grid(["a"], 2, 3)[:-1]
    records[0]["test_accuracy"] = None  # what NaN is in a file
    curve = reporting.learning_curves(records)["a"]
    assert curve.num_seeds.tolist() == [1, 2, 1]
    np.testing.assert_allclose(curve.mean, [0.51, 0.545, 0.58])
    np.testing.assert_array_equal(np.isnan(curve.std), [True, False, True])
    assert np.isnan(curve.accuracy).sum() == 2
    assert not list(recwarn)


def test_curves_take_other_metrics_and_the_later_of_two_records():
    records = [record(accuracy=0.3), record(accuracy=0.5)]
    curve = reporting.learning_curves(records, metric="balanced_accuracy")["fisher"]
    np.testing.assert_allclose(curve.accuracy, [[0.4]])
    assert reporting.learning_curves([]) == {}


def test_one_dataset_at_a_time():
    with pytest.raises(ValueError, match="one dataset"):
        reporting.learning_curves([record(), record(dataset="mnist")])


def shown(table, width=80):
    console = rich.console.Console(file=io.StringIO(), width=width, force_terminal=True)
    console.print(table)
    return console.file.getvalue()


def plain(table, width=80):
    console = rich.console.Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_final_table_by_hand_in_80_columns():
    lines = plain(reporting.final_table(grid(["random", "fisher_oracle"], 2, 2)))
    assert lines[0] == "strategy seeds labels test balanced worst area s/round".split()
    assert lines[2] == [
        *("random", "2", "200", "54.50±0.71", "44.50±0.71", "34.50±0.71"),
        *("52.50±0.71", "3.0"),
    ]
    assert lines[3][0] == "fisher_oracle"


def test_final_table_stops_where_all_seeds_are():
    records = grid(["a"], 2, 3)[:-1]
    assert plain(reporting.final_table(records))[2][2] == "200"
    assert plain(reporting.final_table(records, rounds=[0]))[2][2] == "100"
    assert plain(reporting.final_table(records, rounds=[9]))[2][2:] == ["–"] * 6


def test_bold_is_for_the_best_of_comparable_strategies():
    bold = "\x1b[1m"
    rows = shown(reporting.final_table(grid("ab", 2, 2))).splitlines()
    assert bold not in rows[2] and rows[3].count(bold) == 4
    alone = shown(reporting.final_table(grid("a", 2, 2))).splitlines()
    assert bold not in alone[2]
    unequal = [*grid("a", 2, 2), *grid("b", 2, 1)]
    rows = shown(reporting.final_table(unequal)).splitlines()
    assert bold not in rows[2] + rows[3]
    ties = [record("a", accuracy=0.900001), record("b", accuracy=0.9)]
    assert reporting.markdown_table(ties).count("**90.00**") == 2 * 3


def test_names_are_not_markup():
    assert "[red]x" in shown(reporting.final_table([record("[red]x")]))
    assert "| a\\|b |" in reporting.markdown_table([record("a|b")])


def test_markdown_table_by_hand():
    text = reporting.markdown_table(
        grid(["a", "b"], 2, 2), {"paper": ([100, 300], [70, 80.5])}
    )
    final, points = text.split("\n\n")
    assert final.splitlines()[0].startswith("| strategy | seeds | labels | test |")
    assert points.splitlines() == [
        "| labels | a | b | paper (reference) |",
        "| --- | ---: | ---: | ---: |",
        "| 100 | 50.50±0.71 | **52.50±0.71** | 70.00 |",
        "| 200 | 54.50±0.71 | **56.50±0.71** | – |",
        "| 300 | – | – | 80.50 |",
    ]


# Figures.


@pytest.mark.parametrize(
    ("strategies", "seeds", "rounds"), [(1, 1, 1), (3, 3, 1), (10, 2, 4), (12, 1, 2)]
)
def test_learning_curve_is_drawn(tmp_path, strategies, seeds, rounds):
    records = grid([f"strategy {k} $" for k in range(strategies)], seeds, rounds)
    path = tmp_path / "curve.png"
    reporting.draw_learning_curve(records, path, title="Digits, $5")
    image = imread(path)[..., :3]
    assert image.shape == (750, 1200, 3)
    assert 0.01 < (image < 0.9).any(axis=-1).mean() < 0.5
    for color in reporting._COLORS[:strategies]:
        rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(image - rgb).max(axis=-1) < 0.01).sum() > 20, color
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_learning_curve_shows_the_band_the_gap_and_the_reference(tmp_path):
    def draw(records, **options):
        reporting.draw_learning_curve(records, tmp_path / "x.png", **options)
        return imread(tmp_path / "x.png")

    whole = draw(grid("a", 2, 3))
    assert (whole != draw(grid("a", 1, 3))).any()
    assert (whole != draw(grid("a", 2, 3)[:-1])).any()
    reference = {"a": ([100, 200], [40, 60]), "b": ([100, 200], [41, 61])}
    assert (whole != draw(grid("a", 2, 3), reference=reference)).any()


@pytest.mark.parametrize(
    ("panels", "classes"), [(1, 3), (1, 30), (2, 15), (3, 10), (8, 3)]
)
def test_confusion_is_drawn(tmp_path, panels, classes):
    records = grid([f"s{k}" for k in range(panels)], 2, 1, classes=classes)
    reporting.draw_confusion(records, tmp_path / "x.png")
    image = imread(tmp_path / "x.png")[..., :3]
    assert image.shape[0] >= 600 and 900 <= image.shape[1] <= 1300
    assert 0.1 < (image < 0.97).any(axis=-1).mean() < 0.95


def test_confusion_of_a_class_without_examples(tmp_path, recwarn):
    reporting.draw_confusion([record(confusion=[[3, 1], [0, 0]])], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert not list(recwarn)


@pytest.mark.parametrize(
    "draw", [reporting.draw_learning_curve, reporting.draw_confusion]
)
def test_figures_replay_and_explain(tmp_path, draw):
    records = grid(["a", "b"], 2, 2)
    draw(records, tmp_path / "1.png")
    with pytest.MonkeyPatch.context() as patch:
        import matplotlib

        patch.setitem(matplotlib.rcParams, "font.size", 20)  # somebody's taste
        draw(records, tmp_path / "2.png")
    data = (tmp_path / "1.png").read_bytes()
    assert data == (tmp_path / "2.png").read_bytes()
    assert b"matplotlib" not in data.lower() and b"tIME" not in data
    with pytest.raises(UserError) as error:
        draw(records, tmp_path / "none" / "x.png")
    assert one_sentence(error)
    with pytest.raises(UserError) as error:
        draw([], tmp_path / "x.png")
    assert one_sentence(error)


# Progress.


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_silent_without_a_terminal(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with reporting.Progress(total=2) as progress:
        progress.advance("pretraining")
        progress.update(strategy="a", seed=0, round=0, accuracy=0.5)
    assert capfd.readouterr() == ("", "")


def test_progress_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = rich.console.Console(
        file=Terminal(), width=100, force_terminal=True, legacy_windows=False
    )
    with reporting.Progress(total=4, completed=1, console=console) as progress:
        progress.advance("pretraining")
        progress.update(strategy="[b]a", seed=3, round=7, accuracy=0.873)
    text = console.file.getvalue()
    assert "[b]a, seed 3, round 7: 87.3 %" in text and "3/4" in text
