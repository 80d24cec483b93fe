"""Any command line and any name: see `tests/hostile.py`."""

import contextlib
import dataclasses
import io
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fkjax.commands.run
from fkjax.acquisition import STRATEGIES
from fkjax.commands import run
from fkjax.data import datasets, tfds
from fkjax.experiment import checks, config
from tests.hostile import in_time, outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


# The command line

FLAGS = ["--" + f.name.replace("_", "-") for f in dataclasses.fields(config.Config)]
ODD = [
    *(
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 30,
        "9" * 5000,
        "1_0",
        "１２",
    ),
    *(
        "x" * 10_000,
        "\x1b[31m",
        "a\nb",
        "\0",
        "../../etc",
        "/etc",
        "\udc80",
        "--",
        "-h",
    ),
    *("=cmd()", "<script>", "[/red]", "{}", "%s", "@file", "None", "True", "1e3"),
]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
    st.sampled_from([*STRATEGIES, "lenet", "resnet18", "mnist", "paper-svhn"]),
)


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(FLAGS), st.lists(VALUES, max_size=2), st.booleans()),
        max_size=4,
    )
)
def test_any_command_line_is_accepted_or_refused(pairs):
    argv = []
    for flag, values, is_joined in pairs:
        argv += ["=".join([flag, *values])] if is_joined else [flag, *values]
    stderr, stdout = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
            outcome(lambda: checks.check(run.parse(argv)))
    except SystemExit as end:
        assert end.code in (0, 2) and "Traceback" not in stderr.getvalue()
        assert end.code == 2 or "usage" in stdout.getvalue()


@pytest.fixture(scope="module")
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "_answers", lambda url: False)
        yield


NAMES = st.one_of(
    st.sampled_from(
        ["../../etc", "/etc", "..", ".", "", "mnist\0", "mnist/..", "a" * 5000]
    ),
    st.sampled_from(
        ["mnist:9.9.9", "mnist/x", "\x1b[31m", "а" * 300, "\udc80", "c:\\x"]
    ),
    st.text(alphabet="amnist0_/.:-\\~ \0\n", max_size=12),
)


@given(
    name=NAMES, place=st.sampled_from(["", "\0", "x" * 5000, "~nobody-of-that-name"])
)
@example("mnist", "file")
@example("mnist", "file/below")
def test_a_name_that_is_no_set_is_refused_and_nothing_is_written(
    folder, no_network, name, place
):
    here = folder / "empty"
    here.mkdir(exist_ok=True)
    (here / "file").touch()
    where = place if place.startswith("~") else here / place
    assert outcome(datasets.load, name, data_dir=where) is None
    assert os.listdir(here) == ["file"]


def test_the_command_says_one_line_of_a_file_name_that_holds_a_newline(
    tmp_path, capsys
):
    place = tmp_path / "bad\n\x1b[2Jname"
    (place / "mnist").mkdir(parents=True)
    os.mkfifo(place / "mnist" / "train-images-idx3-ubyte")
    with in_time():
        status = fkjax.commands.run.main(
            ["--dataset", "mnist", "--data-dir", str(place)]
        )
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert status == 2 and captured.out == "" and line.isprintable()
    assert r"bad\n\x1b[2Jname" in line and "not a regular file" in line
