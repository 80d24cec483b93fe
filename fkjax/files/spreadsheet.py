"""CSV files that a person made or changed, perhaps in a spreadsheet."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError, printable
from fkjax.files.opening import read_bytes
from fkjax.files.writing import encoded

MAX_BYTES = 256 << 20
"""The largest file that is read."""

_SHOWN = 20
_DELIMITERS = ",;\t"  # a spreadsheet's depends on the country


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        line: where it ends in the file, from 1.
        cells: its text by column, without spaces around it.
    """

    line: int
    cells: dict[str, str]


class Problems:
    """What is wrong with a file, gathered so that all of it is told at once."""

    def __init__(self, path: str | os.PathLike[str]):
        """Of one file."""
        self._path, self._found = os.fspath(path), list[str]()

    def add(self, what: str, line: int | None = None) -> None:
        """Notes a problem, in a few words."""
        self._found.append(what if line is None else f"line {line}: {what}")

    def __len__(self) -> int:
        """How many there are."""
        return len(self._found)

    def raise_any(self, advice: str) -> None:
        """Tells the problems, if there are any; of many, the first and a count.

        Raises:
            UserError: with the advice at its end.
        """
        if self._found:
            shown = "; ".join(self._found[:_SHOWN])
            more = len(self._found) - _SHOWN
            rest = f"; and {more} more" if more > 0 else ""
            raise UserError(f"{self._path}: {shown}{rest}: {advice}")


def read_rows(path: Path, columns: Sequence[str], problems: Problems) -> list[Row]:
    """Reads a table that begins with the names of its columns.

    Empty lines are left out. Columns may stand in any order, and there may be others.
    Cells are separated by commas, semicolons or tabs, as the first line is.

    Args:
        path: of the file.
        columns: that it must have.
        problems: is told of lines that have more cells than columns.

    Raises:
        UserError: if it cannot be read, is no UTF-8, is no CSV, or lacks a column.
    """
    data = read_bytes(path, MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} must be UTF-8, but line {line} is not: save it as CSV UTF-8"
        ) from error
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)  # the first of them if there is none
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UserError(
                f"{path} must begin with a line of its columns' names, with "
                f"{' and '.join(columns)} among them, but {' and '.join(missing)} is "
                "missing: add it"
            )
        rows = []
        for cells in lines:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if any(cells[len(header) :]):
                problems.add(
                    f"has {len(cells)} cells for {len(header)} columns (put text with "
                    f"a {delimiter!r} in quotes)",
                    lines.line_num,
                )
            cells += [""] * (len(header) - len(cells))
            rows.append(Row(lines.line_num, dict(zip(header, cells, strict=False))))
    except csv.Error as error:
        raise UserError(
            f"{path} is damaged in line {lines.line_num} ({error}): mend that line"
        ) from error
    return rows


def as_it_was(cell: str) -> str:
    """The text that `fkjax.files.spreadsheet.inert` kept a spreadsheet from running.

    >>> as_it_was("'=1+1"), as_it_was("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and inert(cell[1:]) == cell else cell


def inert(text: str) -> str:
    """Keeps a spreadsheet from running the text of a CSV cell as a formula."""
    text = printable(text)  # for a carriage return would begin another row
    return "'" + text if text.startswith(tuple("=+-@＝＋－＠")) else text


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows of a CSV file, as UTF-8; text cells go through `inert` before."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return encoded(buffer.getvalue())
