"""CSV files that users make or change, perhaps in a spreadsheet."""

import codecs
import csv
import io
import os
import re
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


class Cell(str):
    """Text read from a cell, such as an id, with `as_it_was` applied.

    The text that was written may have differed: see `as_in_cell`.
    """


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


def read_rows(
    path: Path,
    columns: Sequence[str],
    problems: Problems,
    *,
    optional: Sequence[str] = (),
) -> list[Row]:
    """Reads a table that begins with the names of its columns.

    Empty lines are skipped. Columns may be in any order, and there may be others. Cells
    are separated by commas, semicolons or tabs, as in the first line. The first line
    may be `sep=;`, as in files for Excel.

    Args:
        path: path of the file.
        columns: columns that the file must have, in lower case. If no name is equal,
            one that differs in case is used.
        problems: collection to which lines with more cells than columns are added.
        optional: columns that the file may have once, in lower case.

    Raises:
        UserError: if the file cannot be read, is not CSV in UTF-8 or UTF-16, lacks a
            column, or has it twice.
    """
    text = _decoded(path, read_bytes(path, MAX_BYTES))
    first, *rest = re.split(r"\r\n|\r|\n", text, maxsplit=1)
    declared = re.fullmatch(r"\"?sep=(.)\"?", first)
    delimiter = declared[1] if declared else _delimiter(first, columns)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if declared and rest:
            next(lines)
        header = _names(path, next(lines, []), columns, optional)
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


def _delimiter(first: str, columns: Sequence[str]) -> str:
    """Returns the delimiter by which a first line has the most of the columns."""

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip(' "').lower() for name in first.split(delimiter)]
        return sum(name in names for name in columns), first.count(delimiter)

    return max(_DELIMITERS, key=score)  # a comma if all are equal


def _decoded(path: Path, data: bytes) -> str:
    """Decodes a file in UTF-8, or in UTF-16 if it begins with a byte order mark.

    Raises:
        UserError: if it is in another encoding, or is a workbook.
    """
    if data.startswith(b"PK\x03\x04"):
        raise UserError(
            f"{path} is not a CSV file but a ZIP file, such as a workbook (.xlsx): "
            "save it as CSV UTF-8"
        )
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding, name = ("utf-16", "UTF-16") if is_wide else ("utf-8-sig", "UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        if is_wide:
            line = before.decode(encoding, "ignore").count("\n") + 1
        else:
            line = before.count(b"\n") + 1
        raise UserError(
            f"{path} must be {name}, but line {line} is not: save it as CSV UTF-8"
        ) from error


def _names(
    path: Path,
    header: Sequence[str],
    columns: Sequence[str],
    optional: Sequence[str],
) -> list[str]:
    """Returns the names of the columns, in lower case.

    A name in capitals is kept if there is an equal one in lower case.

    Raises:
        UserError: if a required column is missing, or it or an optional one is there
            twice.
    """
    header = [name.strip() for name in header]
    names = [name if name.lower() in header else name.lower() for name in header]
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(
            f"{path} must begin with a line of column names that include "
            f"{' and '.join(columns)}, but {' and '.join(missing)} is missing: add it"
        )
    for name in (*columns, *optional):
        if names.count(name) > 1:
            raise UserError(
                f"{path} must have one column {name}, but has {names.count(name)}: "
                "rename the others"
            )
    return names


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


def as_in_cell(text: str) -> str:
    """Returns what `as_it_was` returns for the cell with a text that `inert` escaped.

    It differs from the text in control characters, surrounding spaces, and the
    apostrophe of a text that looks escaped.
    """
    if text.isprintable() and text == text.strip() and text[:1] != "'":
        return text
    return as_it_was(inert(text).strip())


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Writes rows as CSV in UTF-8; text cells must have been escaped by `inert`."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return encoded(buffer.getvalue())
