"""Ids that come back from the cells of a CSV file."""

import unicodedata

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.files.spreadsheet import Cell, as_in_cell
from fkjax.selection.choose import Selection
from fkjax.selection.id_cells import nearest, positions_of_cells
from fkjax.selection.pick import Pick
from fkjax.selection.picks import picks_csv, read_ids

HARD = [
    *("007", "=1+1", "''=2+2", "'tis", '"quoted"', "a,b", "a;b", "a\tb", "two\nlines"),
    *(" spaces ", "größe", "cafe\u0301", "日本", "1e5", "-3", "@x", "＝1", "a\\b"),
    *("\x1b[31m", "TRUE", "?", "'", "", "'=3"),
]
"""Ids that differ from the cells of a CSV file, or look like other values."""


def written(ids):
    nothing = np.zeros(0)
    picks = [
        Pick(rank, id_, None, None, None, "x", 1.0, "because, of this")
        for rank, id_ in enumerate(ids, start=1)
    ]
    return picks_csv(
        Selection(picks, "random", nothing, nothing, nothing, 0, nothing)
    ).decode()


def found(labeled, ids):
    exact = {text: i for i, text in enumerate(ids.tolist())}
    return positions_of_cells(labeled, [exact.get(i) for i in labeled], ids)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_id_comes_back(tmp_path, encoding):
    path = tmp_path / "picks.csv"
    path.write_text(written(HARD), encoding=encoding)
    ids = np.array([*HARD[::-1], "i1"])
    positions = found(read_ids(path), ids)
    assert [ids[i] for i in positions] == HARD
    path.write_text("rank; ID \n;\n1;i1\n;\n", encoding=encoding)
    assert found(read_ids(path), ids) == [len(HARD)]


def test_numbers_come_back(tmp_path):
    path, ids = tmp_path / "picks.csv", np.array([3, 10, -1])
    path.write_text(written(ids.tolist()))
    assert read_ids(path) == ["3", "10", "-1"]
    assert positions_of_cells(read_ids(path), [0, 1, 2], ids) == [0, 1, 2]


def test_the_unicode_form_may_change():
    composed = [Cell(unicodedata.normalize("NFC", text)) for text in HARD]
    assert found([Cell("caf\u00e9"), Cell("?")], np.array(HARD)) == [
        HARD.index("cafe\u0301"),
        HARD.index("?"),
    ]
    both = np.array(["cafe\u0301", "caf\u00e9"])
    assert found([Cell("caf\u00e9")], both) == [1]
    assert None not in found([c for c in composed if c.isascii()], np.array(composed))


@pytest.mark.parametrize("pair", [("=1", "'=1"), ("a", "a "), ("a\nb", "a\\nb")])
def test_ids_that_look_the_same_in_a_cell_are_refused(pair):
    ids = np.array(pair)
    with pytest.raises(UserError, match="look the same in a CSV file: rename one"):
        found([Cell(as_in_cell(pair[0])), Cell("none")], ids)
    assert found([pair[0]], ids) == [0]  # not from a file


def test_the_nearest_id_is_named():
    ids = np.array(["007", "A1", "b", "B"])
    assert nearest("7", ids) == " (did you mean 007?)"
    assert nearest("a1", ids) == " (did you mean A1?)"
    assert nearest("c", ids) == "" and nearest("0b", ids) == ""
    assert nearest(Cell(""), ids) == " (it is empty)"
    assert nearest(Cell("x"), range(3)) == ", whose ids are 0 to 2"
