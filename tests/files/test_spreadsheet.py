"""CSV files as users and their spreadsheets write them."""

import csv

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fkjax.base import UserError
from fkjax.files import spreadsheet
from fkjax.files.spreadsheet import (
    Problems,
    as_in_cell,
    as_it_was,
    csv_bytes,
    inert,
    read_rows,
)


@pytest.fixture
def read(tmp_path):
    def read(data, *columns):
        path = tmp_path / "t.csv"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        problems = Problems(path)
        rows = read_rows(path, columns or ("file", "label"), problems)
        problems.raise_any("mend it")
        return [(line, *cells.values()) for line, cells in rows]

    return read


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_is_read_whichever_program_wrote_it(read, delimiter, end):
    lines = ["\ufeffFile, label ", 'a,"x y"', "", ",", ' b c ,"one\ntwo"', "d"]
    text = end.join(lines).replace(",", delimiter)
    assert read(text) == [(2, "a", "x y"), (6, "b c", "one\ntwo"), (7, "d", "")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("first", ["", "sep=;", '"sep=;"'])
def test_a_table_is_read_as_excel_writes_it(read, encoding, end, first):
    lines = [first] if first else []
    lines += [" File ;LABEL;x,y,z", "ü;'=1;", ";;", ";;", "001;a,b;", ""]
    rows = read(end.join(lines).encode(encoding))
    more = len(lines) - 6
    assert rows == [(2 + more, "ü", "'=1", ""), (5 + more, "001", "a,b", "")]


def test_a_name_in_lower_case_comes_before_others(read):
    assert read("ID,id\n1,2\n", "id") == [(2, "1", "2")]
    with pytest.raises(UserError, match="must have one column id, but has 2"):
        read("ID,Id\n1,2\n", "id")


@pytest.mark.parametrize("first", ["file,label,set,set", "file,label,Split,SPLIT"])
def test_an_optional_column_that_is_there_twice_is_refused(first, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(f"{first}\na.png,cat,train,test\n")
    read_rows(path, ("file", "label"), Problems(path))
    with pytest.raises(UserError, match="must have one column (set|split), but has 2"):
        read_rows(path, ("file",), Problems(path), optional=("set", "split"))


def test_columns_may_stand_in_any_order_and_be_more(read):
    assert read("x,label,file\n1,2,3\n") == [(2, "1", "2", "3")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "file and label is missing"),
        ("file\na\n", "but label is missing"),
        (b"file,label\na,\xe4\n", "must be UTF-8, but line 2 is not"),
        ("file,label\na,ä\n".encode("utf-16")[:-1], "must be UTF-16, but line 2"),
        (b"PK\x03\x04rest", r"not a CSV file but a ZIP file.*save it as CSV UTF-8"),
        (
            "file,label\na," + "b" * 200_000,
            "damaged in line",
        ),  # longer than a cell may be
        ("file,label\na,b,c\nd,e,f\n", "line 2: has 3 cells for 2 columns"),
        ("file,label\na,b,c\nd,e,f\n", "line 3: has 3 cells for 2 columns"),
    ],
)
def test_what_is_no_table_is_told(read, data, said):
    with pytest.raises(UserError, match=said):
        read(data)


def test_a_file_that_is_missing_or_too_large_is_told(read, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="could not read"):
        read_rows(tmp_path / "none.csv", (), Problems("none.csv"))
    monkeypatch.setattr(spreadsheet, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read("file,label\n")


def test_many_problems_are_counted():
    problems = Problems("t.csv")
    problems.raise_any("nothing is said")
    for i in range(23):
        problems.add("is wrong", i)
    with pytest.raises(UserError) as told:
        problems.raise_any("mend it")
    assert len(problems) == 23
    assert str(told.value).startswith("t.csv: line 0: is wrong; line 1: is wrong;")
    assert str(told.value).endswith("line 19: is wrong; and 3 more: mend it")


printable = st.text(st.characters(codec="utf-8")).filter(str.isprintable)


@given(printable.map(str.strip))
def test_text_comes_back_from_a_cell(text):
    assume(
        not (text.startswith("'") and inert(text[1:]) == text)
    )  # looks like `inert` text
    assert as_it_was(inert(text)) == text
    assert b"\n=" not in csv_bytes([["x"], [inert(text)]])


@given(st.text())
def test_every_text_is_known_by_its_cell(text):
    (cell,) = csv_bytes([[inert(text)]]).decode("utf-8").splitlines() or [""]
    (read,) = next(csv.reader([cell]), [""])
    assert as_it_was(read.strip()) == as_in_cell(text) == as_in_cell(as_in_cell(text))
