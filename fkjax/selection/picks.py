"""The CSV file of picks, and the ids read from CSV files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fkjax.files.spreadsheet import (
    Cell,
    Problems,
    as_it_was,
    csv_bytes,
    inert,
    read_rows,
)
from fkjax.selection.choose import Selection

COLUMNS = (
    *("rank", "id", "score", "pseudo_label", "answers", "answers_label"),
    *("answers_predicted", "predicted", "confidence", "reason"),
)
"""The columns of the CSV file."""


def picks_csv(selection: Selection) -> bytes:
    """Writes the picks as a CSV file."""
    rows: list[Sequence[Any]] = [COLUMNS]
    for pick in selection.picks:
        mistake = pick.answers
        answers = ("", "", "")
        if mistake is not None:
            answers = (str(mistake.id), mistake.label, mistake.predicted)
        rows.append(
            [
                pick.rank,
                inert(str(pick.id)),
                "" if pick.score is None else f"{pick.score:.6g}",
                inert(pick.pseudo_label or ""),
                *map(inert, answers),
                inert(pick.predicted),
                f"{pick.confidence:.6g}",
                inert(pick.reason),
            ]
        )
    return csv_bytes(rows)


def read_ids(path: Path) -> list[Cell]:
    """Reads the column `id` of a CSV file.

    Raises:
        UserError: if the file cannot be read or has no such column.
    """
    problems = Problems(path)
    rows = read_rows(path, ("id",), problems)
    problems.raise_any("fix the file")
    return [Cell(as_it_was(cells["id"])) for _, cells in rows]
