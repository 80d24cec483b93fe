"""The CSV file of picks, and the ids read from CSV files."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fkjax.base import UserError
from fkjax.files.opening import read_bytes
from fkjax.files.spreadsheet import as_it_was, csv_bytes, inert
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


def read_ids(path: Path) -> list[str]:
    """Reads the column `id` of a CSV file.

    Raises:
        UserError: if the file cannot be read or has no such column.
    """
    data = read_bytes(path)
    try:
        lines = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if "id" not in (lines.fieldnames or ()):
            raise UserError(f"{path} must be a CSV file with a column id")
        return [as_it_was(line["id"] or "") for line in lines]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file ({error}): fix it") from error
