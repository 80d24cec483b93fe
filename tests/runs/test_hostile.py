"""Damaged files of a run; see `tests/hostile.py`."""

import csv
import dataclasses
import io
import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fkjax.base import UserError, printable
from fkjax.experiment import presets
from fkjax.runs.folder import RunFolder
from tests.hostile import damaged, in_time, outcome
from tests.records import record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# The files of a run

LINE = json.dumps(record()).encode() + b"\n"
HALF = [b"[" * 100_000 + b"\n", b'{"seed": 1' + b"0" * 5000 + b"}\n", b"\xff\xfe{}\n"]


@pytest.fixture
def run_folder(folder):
    shutil.rmtree(folder / "run", ignore_errors=True)
    made = RunFolder.create(folder / "run")
    made.write_config(dataclasses.asdict(presets.defaults("digits")))
    return made


def rewritten(run_folder, name, data):
    (run_folder.path / name).write_bytes(data)
    return run_folder


@pytest.fixture(scope="module")
def any_run(folder):
    return RunFolder.create(folder / "any run")


@given(data=damaged([b"{}", b'{"seeds": 3, "taps": ["conv1"]}', b"[]", b"3", *HALF]))
def test_a_configuration_is_an_object_or_refused(any_run, data):
    found = outcome(rewritten(any_run, "config.json", data).read_config)
    assert found is None or json.loads(data) == found


@given(data=damaged([LINE, LINE * 3, *HALF, LINE + HALF[0]]))
def test_a_line_of_records_is_a_record_or_refused(any_run, data):
    found = outcome(rewritten(any_run, "rounds.jsonl", data).read_records)
    if found is not None:
        lines = data.split(b"\n")[:-1]
        assert found == [json.loads(line) for line in lines]
        assert all(len(r["confusion"]) == len(r["class_accuracy"]) for r in found)


ROWS = b"strategy,seed,round,id,label,pseudo_label,target_id\nrandom,0,1,5,6,,\n"


@given(data=damaged([ROWS, ROWS * 2, b'"', b"\xff\n", b"random,0\n", b"random,0,x\n"]))
def test_queries_are_rewound_or_left_as_they_are(any_run, data):
    rewritten(any_run, "queries.csv", data)
    rewritten(any_run, "rounds.jsonl", b"")
    path = any_run.path / "queries.csv"
    try:
        with in_time():
            any_run.rewind(strategy="random", seed=0, round=1)
    except UserError as error:
        assert str(error).isprintable() and path.read_bytes() == data
    else:
        assert not any(
            row[:2] == ["random", "0"] and int(row[2]) >= 1
            for row in list(csv.reader(io.StringIO(path.read_text(), newline="")))[1:]
        )


@given(strategy=st.text(alphabet="=+-@＝＠\t\r\n 'a,;\"", min_size=1, max_size=6))
def test_no_cell_is_run_as_a_formula(any_run, strategy):
    rewritten(any_run, "queries.csv", b"")
    any_run.append_queries([1], [2], [-1], [-1], strategy=strategy, seed=0, round=1)
    text = (any_run.path / "queries.csv").read_bytes().decode()
    _, (cell, *_) = csv.reader(io.StringIO(text, newline=""))
    shown = printable(strategy)
    assert cell[0] not in "=+-@＝＋－＠\t\r\n" and cell in (shown, "'" + shown)


@pytest.mark.parametrize("name", ["config.json", "rounds.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_file_of_a_run_that_is_none_is_refused(run_folder, name, make):
    (run_folder.path / name).unlink(missing_ok=True)
    make(run_folder.path / name)
    read = {"config.json": run_folder.read_config}.get(name, run_folder.read_records)
    assert outcome(read) is None


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_a_run_folder_that_cannot_be_is_refused(tmp_path, path):
    assert outcome(RunFolder.open, tmp_path / path) is None
    assert outcome(RunFolder.create, tmp_path / path) is None
    assert not os.listdir(tmp_path)
