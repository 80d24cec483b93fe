"""CSV files that users make or change, perhaps in a spreadsheet."""

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
"""The size of the largest file that is read, in bytes."""

_SHOWN = 20
_DELIMITERS = ",;\t"  # that of a spreadsheet depends on the country


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: number of the line in which the row ends, counted from 1.
        cells: text of the cells by column, without surrounding spaces.
    """

    line: int
    cells: dict[str, str]


class Problems:
    """The problems of a file, collected so that all can be reported at once."""

    def __init__(self, path: str | os.PathLike[str]):
        """Starts with no problems.

        Args:
            path: path of the file, for the message.
        """
        self._path, self._found = os.fspath(path), list[str]()

    def add(self, what: str, line: int | None = None) -> None:
        """Adds a problem.

        Args:
            what: short description of the problem.
            line: number of its line, if it has one.
        """
        self._found.append(what if line is None else f"line {line}: {what}")

    def __len__(self) -> int:
        """Returns the number of problems."""
        return len(self._found)

    def raise_any(self, advice: str) -> None:
        """Raises an error if there are problems.

        Args:
            advice: end of the message, on how to fix the problems.

        Raises:
            UserError: if there are problems; the message lists the first of them and
                ends with the advice.
        """
        if self._found:
            shown = "; ".join(self._found[:_SHOWN])
            more = len(self._found) - _SHOWN
            rest = f"; and {more} more" if more > 0 else ""
            raise UserError(f"{self._path}: {shown}{rest}: {advice}")


def read_rows(path: Path, columns: Sequence[str], problems: Problems) -> list[Row]:
    """Reads a table that begins with the names of its columns.

    Empty lines are skipped. Columns may be in any order, and there may be others. Cells
    are separated by commas, semicolons or tabs, as in the first line.

    Args:
        path: path of the file.
        columns: columns that the file must have.
        problems: collection to which lines with more cells than columns are added.

    Raises:
        UserError: if the file cannot be read, is not UTF-8 or CSV, or lacks a column.
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
    delimiter = max(_DELIMITERS, key=first.count)  # a comma if there is none
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UserError(
                f"{path} must begin with a line of column names that include "
                f"{' and '.join(columns)}, but {' and '.join(missing)} is missing: add "
                "it"
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
            f"{path} is damaged in line {lines.line_num} ({error}): fix that line"
        ) from error
    return rows


def as_it_was(cell: str) -> str:
    """Reverses `inert`, which prevents a spreadsheet from running a cell.

    >>> as_it_was("'=1+1"), as_it_was("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and inert(cell[1:]) == cell else cell


def inert(text: str) -> str:
    """Escapes text of a CSV cell that a spreadsheet would run as a formula."""
    text = printable(text)  # a carriage return would begin another row
    return "'" + text if text.startswith(tuple("=+-@＝＋－＠")) else text


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Writes rows as CSV in UTF-8; text cells must have been escaped by `inert`."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return encoded(buffer.getvalue())
