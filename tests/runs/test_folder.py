import csv
import errno
import io
import json
import os
import sys
import tempfile
import threading

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.runs import folder as reporting
from tests.records import one_sentence, record


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

    monkeypatch.setattr(tempfile, "TemporaryFile", deny)
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
    good = json.dumps(record())
    (tmp_path / "rounds.jsonl").write_text(f"{good}\nnonsense\n")
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
    # A reader may see half of a write, so readers skip incomplete lines.
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
        folder.append_record(record(round=number, classes=50))
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

    folder.rewind(strategy="a", seed=0, round=0)  # nothing is written yet
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
