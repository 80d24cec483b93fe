"""The report command, and its page, CSV file and Markdown file."""

import csv
import io
import re
import subprocess
import sys

import numpy as np
import pytest

from fkjax.base import printable
from fkjax.commands import report
from fkjax.files.spreadsheet import inert
from fkjax.report import export
from fkjax.report.tables import escape_markdown
from tests.pages import Page
from tests.records import grid, record, write_run

HOSTILE = "=cmd|'<script>alert(1)</script>\n_x_ `a` [b](http://c.example) $y$"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A folder of two runs: one with hostile names, one unfinished."""
    path = tmp_path_factory.mktemp("runs")
    names = ["random", HOSTILE]
    records = grid(names, 3, 3, classes=10, peak_memory_mb={"query": 123.0})
    run = write_run(path / "a & <b>", records, validation_size=50, note=HOSTILE)
    for r in records:
        ids = np.arange(8) + 10 * r["round"]
        given = ids, digits.train_labels[ids], ids % 10, ids + 900
        run.append_queries(
            *given, strategy=r["strategy"], seed=r["seed"], round=r["round"]
        )
    write_run(
        path / "c",
        grid(["random"], 3, 3, classes=10)[:-1],
        validation_size=90,
        rounds=3,
    )
    return path


@pytest.fixture(scope="module")
def made(folder):
    """The folder with the three files of a report."""
    outputs = [f"--output={folder / f'report.{end}'}" for end in ("html", "csv", "md")]
    assert report.main([*map(str, sorted(folder.iterdir())), *outputs]) == 0
    return folder


@pytest.fixture(scope="module")
def page(made):
    return Page((made / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(page):
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.found}
    for tag, attributes in page.found:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), tag
    source = "".join(page.text)
    assert "@import" not in source and "url(http" not in source


def test_the_page_s_links_and_names_are_whole(page):
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.found:
        if tag == "a":
            assert attributes["href"].removeprefix("#") in ids
    assert all(a.get("alt") for tag, a in page.found if tag == "img")


def test_the_page_escapes_every_name(page, made):
    assert "<script" not in (made / "report.html").read_text(encoding="utf-8")
    text = "".join(page.text)
    assert printable(HOSTILE) in text and "a & <b>" in text


def test_the_page_shows_each_part(page):
    text = " ".join("".join(page.text).split())
    for part in (
        "3 strategies compared",
        "c is unfinished: 2 of 3 combinations of strategy and seed are complete.",
        "random (c): only the 2 rounds that all seeds have reached",
        "kept apart because their settings differ (validation_size: 50, 90).",
        "that takes at least 7 seeds",
        "strategy, MB",
        "No images: ",
        "matches a mistake on class",
        "area under the curve",
    ):
        assert part in text
    tags = [tag for tag, _ in page.found]
    # Three curves, two charts of differences, one of costs, and two per strategy.
    assert tags.count("svg") == 3 + 2 + 1 + 2 * 3
    assert tags.count("img") == 2 * 3 * 6 * 2  # strategies, rounds, queries, pairs
    highlighted = [a for tag, a in page.found if a.get("class") == "differs"]
    assert len(highlighted) == 3  # note, validation_size, strategies


def test_the_page_fits_a_phone(page, made):
    viewport = [a for tag, a in page.found if a.get("name") == "viewport"]
    assert "width=device-width" in viewport[0]["content"]
    source = (made / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in source and len(source) < 1_000_000
    # Every table can be scrolled sideways.
    assert source.count("<table") == source.count('<div class="scroll')


def test_the_csv_file_is_inert_and_whole(made):
    text = (made / "report.csv").read_text(encoding="utf-8")
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head == export.COLUMNS
    rows = [dict(zip(head, row, strict=True)) for row in rows]
    assert not any(cell.startswith("=") for row in rows for cell in row.values())
    assert inert(HOSTILE) in {row["strategy"] for row in rows}
    tables = {row["table"] for row in rows}
    assert tables == {"run", "curve", "final", "labels", "pair", "cost"}
    pick = {
        "table": "run",
        "strategy": "random (a & <b>)",
        "seed": "1",
        "labels": "200",
    }
    values = {
        row["measure"]: float(row["value"])
        for row in rows
        if pick.items() <= row.items()
    }
    assert values == pytest.approx({"test": 55, "balanced": 45, "worst class": 35})
    pair = next(row for row in rows if row["table"] == "pair" and row["wins"] == "3")
    assert float(pair["value"]) == pytest.approx(2) and pair["losses"] == "0"
    assert float(pair["p"]) == 2 / 2**3


def test_the_markdown_file_is_escaped_and_whole(made):
    text = (made / "report.md").read_text(encoding="utf-8")
    assert text.startswith(export.MARK) and text.endswith("\n")
    assert escape_markdown(printable(HOSTILE)) in text
    assert not re.search(r"(?<!\\)<(?!!--)", text)
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(bars) <= 1, block
    assert "**validation_size**" in text and "+2.0 [+2.0, +2.0]" in text


def test_the_same_runs_give_the_same_bytes(made, monkeypatch):
    before = {p.name: p.read_bytes() for p in made.glob("report.*")}
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20)  # a user's setting
    runs = [str(path) for path in sorted(made.iterdir()) if path.is_dir()]
    outputs = [f"--output={made / name}" for name in before]
    assert report.main([*runs, *outputs]) == 0  # the command's own files are replaced
    assert {p.name: p.read_bytes() for p in made.glob("report.*")} == before


def test_one_seed_one_round_one_strategy(tmp_path):
    write_run(tmp_path / "run", [record()])
    output = tmp_path / "report.html"
    assert report.main([str(tmp_path / "run"), "--output", str(output)]) == 0
    text = " ".join("".join(Page(output.read_text(encoding="utf-8")).text).split())
    assert "digits: 1 strategy compared" in text and "a single seed" in text
    assert "There are no pairs to compare" in text


def refused(capsys, *argv):
    assert report.main([str(a) for a in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("fkjax: ")
    assert printed.err.count("\n") == 1 and not printed.err.endswith(".\n")
    return printed.err


@pytest.mark.parametrize("end", ["html", "csv", "md"])
def test_a_file_of_the_user_is_kept(tmp_path, capsys, end):
    write_run(tmp_path / "run", [record()])
    path = tmp_path / f"mine.{end}"
    path.write_text("precious")
    argv = [tmp_path / "run", "--output", path]
    assert "--overwrite" in refused(capsys, *argv)
    assert path.read_text() == "precious"
    assert report.main([*map(str, argv), "--overwrite"]) == 0
    assert b"precious" not in path.read_bytes()
    assert report.main([*map(str, argv)]) == 0


def test_nothing_is_written_when_something_is_wrong(tmp_path, capsys):
    write_run(tmp_path / "run", [record()])
    good = ["--output", tmp_path / "x.md"]
    run = tmp_path / "run"
    (tmp_path / "folder.md").mkdir()
    refused(capsys, *good)
    refused(capsys, tmp_path / "none", *good)
    refused(capsys, run, *good, "--output", tmp_path / "x.pdf")
    refused(capsys, run, *good, "--output", tmp_path / "none" / "x.md")
    refused(capsys, run, *good, "--output", tmp_path / "folder.md")
    for target in ("0", "101", "nan"):
        refused(capsys, run, *good, "--targets", target)
    refused(capsys, run, *good, "--seeds", "5")
    assert not (tmp_path / "x.md").exists()


def test_targets_and_seeds_are_heeded(tmp_path):
    write_run(tmp_path / "run", grid(["a", "b"], 3, 3))
    output = tmp_path / "x.csv"
    argv = [str(tmp_path / "run"), f"--output={output}", "--targets", "55", "52"]
    assert report.main([*argv, "--seeds", "0", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    measures = [row["measure"] for row in rows if row["table"] == "labels"]
    assert measures == ["labels to 52 %"] * 2 + ["labels to 55 %"] * 2
    assert {row["seed"] for row in rows if row["table"] == "run"} == {"0", "2"}


def test_the_page_is_the_default_and_comes_where_the_user_is(tmp_path, monkeypatch):
    write_run(tmp_path / "run", [record()])
    monkeypatch.chdir(tmp_path)
    assert report.main(["run"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_the_command_exits_with_its_status(tmp_path):
    command = [sys.executable, "-m", "fkjax.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    with pytest.raises(SystemExit) as error:
        report.main(["--colour"])
    assert error.value.code == 2
