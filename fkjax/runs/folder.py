"""The files of a run: its configuration, its records and its queries.

A record is a dict that describes one round of one strategy and seed. Its fields are
dataset, strategy, seed, round, num_labeled, test_accuracy, balanced_accuracy,
class_accuracy [C], queried_per_class [C], confusion [C, C] (a row for each true class),
checkpoint_selection, num_random and num_mistakes; seconds and peak_memory_mb (by phase,
the only fields that differ if a run is repeated); member_accuracy [E] for an ensemble;
held_out_accuracy and, in the last record, stop if there is a stop rule. A run that
trains on the validation set or corrects predictions also has validation_role,
correction_strength, correction_temperature, test_accuracy_uncorrected and
balanced_accuracy_uncorrected; its other accuracies and its confusion are of corrected
predictions. If it trains on the validation set, round 0, without a query, is of that
set alone. Accuracies are fractions. If a strategy, seed and round occurs twice, the
later record counts.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.files import folders
from fkjax.files.opening import exists, read_bytes, read_if_exists
from fkjax.files.spreadsheet import csv_bytes, inert
from fkjax.files.writing import encoded, plain, replace_file
from fkjax.runs.record import Record, flaw

_DATA = ("rounds.jsonl", "queries.csv")
FIGURES = ("learning_curve.png", "confusion.png")
"""The names of the figures of a run."""

CHECKPOINTS = "checkpoints"
"""The name of the folder of checkpoints of a run."""

QUERY_COLUMNS = "strategy seed round id label pseudo_label target_id".split()
"""The columns of queries.csv."""


class RunFolder(NamedTuple):
    """The output folder of a run.

    Attributes:
        path: the folder, which exists.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Creates an empty folder and its parents.

        Raises:
            UserError: if the path exists and is not an empty folder, or the folder
                cannot be created.
        """
        path = Path(path)
        folders.make_output_folder(path)
        return cls(path)

    @classmethod
    def holds_run(cls, path: str | os.PathLike[str]) -> bool:
        """Returns whether a folder contains a run that `open` can open."""
        path = Path(path) / "config.json"
        return exists(path) and path.is_file()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Opens the folder of an earlier run, to read or resume the run.

        Raises:
            UserError: if the folder contains no run.
        """
        path = Path(path)
        if not cls.holds_run(path):
            raise UserError(
                f"a run folder contains a config.json, but {path} has none: check the "
                "path"
            )
        return cls(path)

    def locked(self) -> AbstractContextManager[None]:
        """Locks the folder against writes by other processes, until this one ends.

        Raises:
            UserError: if another process has locked the folder.
        """
        return folders.locked(self.path)

    def clear(self) -> None:
        """Removes the files that a run writes, and nothing else."""
        # The configuration is removed last, because it marks a run.
        folders.clear(self.path, CHECKPOINTS, *_DATA, *FIGURES, "config.json")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json with sorted keys, completely or not at all."""
        text = json.dumps(
            plain(config),
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
        )
        replace_file(self.path / "config.json", encoded(text + "\n"))

    def read_config(self) -> dict[str, Any]:
        """Reads config.json.

        Raises:
            UserError: if the file cannot be read or is not a JSON object.
        """
        path = self.path / "config.json"
        config = _from_json(read_bytes(path))
        if not isinstance(config, dict):
            raise UserError(
                f"a configuration must be a JSON object, but {path} is not: fix it"
            )
        return config

    def append_record(self, record: Record) -> None:
        """Appends a record to rounds.jsonl; NaN and infinity are written as null."""
        text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
        _append(self.path / "rounds.jsonl", encoded(text + "\n"))

    def read_records(self) -> list[dict[str, Any]]:
        """Reads the records in rounds.jsonl, without an incomplete last line.

        Raises:
            UserError: if a line is not a record; the message gives the first such line
                and what is wrong with it.
        """
        path = self.path / "rounds.jsonl"
        records = []
        for number, line in enumerate(_whole_lines(path), start=1):
            record = _from_json(line)
            if what := flaw(record):
                raise UserError(
                    f"each line of {path} must be the record of a round, but line "
                    f"{number} is not ({what}): fix or delete that line"
                )
            records.append(record)
        return records

    def append_lines(self, name: str, values: Iterable[Mapping[str, Any]]) -> None:
        """Appends objects to a file of JSON lines, all or none."""
        lines = [json.dumps(plain(value), allow_nan=False) for value in values]
        _append(self.path / name, encoded("".join(f"{line}\n" for line in lines)))

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Reads the objects in a file of JSON lines; none if there is no such file.

        Raises:
            UserError: if a line is not an object.
        """
        path = self.path / name
        values = [_from_json(line) for line in _whole_lines(path)]
        for number, value in enumerate(values, start=1):
            if not isinstance(value, dict):
                raise UserError(
                    f"each line of {path} must be an object, but line {number} is not: "
                    "restore the file as it was written"
                )
        return values

    def append_queries(
        self,
        ids: Iterable[int],
        labels: Iterable[int],
        pseudo_labels: Iterable[int],
        target_ids: Iterable[int],
        *,
        strategy: str,
        seed: int,
        round: int,
    ) -> None:
        """Appends the query of one round to queries.csv; -1 becomes an empty cell.

        Args:
            ids: dataset ids of the queried examples. Shape [B].
            labels: labels given by the oracle, or -1. Shape [B].
            pseudo_labels: labels assumed by the strategy, or -1. Shape [B].
            target_ids: dataset ids of the validation mistakes that the examples were
                matched to, or -1. Shape [B].
            strategy: name of the strategy.
            seed: seed of the run.
            round: number of the round.
        """
        path = self.path / "queries.csv"
        is_new = not read_if_exists(path)
        rows: list[Sequence[Any]] = [QUERY_COLUMNS] if is_new else []
        for numbers in zip(ids, labels, pseudo_labels, target_ids, strict=True):
            cells = ["" if int(n) == -1 else int(n) for n in numbers]
            rows.append([inert(strategy), int(seed), int(round), *cells])
        _append(path, csv_bytes(rows))

    def rewind(self, *, strategy: str, seed: int, round: int) -> None:
        """Removes the records and queries of one strategy and seed from `round` on.

        A killed run may have written parts of a round without its checkpoint. This
        must be called before the round is repeated, so its query is not listed twice.
        """
        path = self.path / "rounds.jsonl"
        if path.exists():
            kept = [
                line + b"\n"
                for line, r in zip(_whole_lines(path), self.read_records(), strict=True)
                if (r["strategy"], r["seed"]) != (strategy, seed) or r["round"] < round
            ]
            replace_file(path, b"".join(kept))
        path = self.path / "queries.csv"
        if path.exists():
            lines, mine = _whole_lines(path), [inert(strategy), str(seed)]
            try:
                text = b"".join(line + b"\n" for line in lines).decode()
                first, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
                kept = [r for r in rows if r[:2] != mine or int(r[2]) < round]
            except (ValueError, IndexError, csv.Error) as error:
                raise UserError(
                    f"the rows of {path} must be as written by the run, but one is not "
                    f"({error}): fix or delete it"
                ) from error
            replace_file(path, csv_bytes([first, *kept] if first else []))


def _from_json(text: bytes) -> Any:
    """Parses JSON; text that is not JSON becomes None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also invalid UTF-8 and deep nesting
        return None


def _whole_lines(path: Path) -> list[bytes]:
    """Returns the lines of a file up to its last newline; none if it is missing."""
    return (read_if_exists(path) or b"").split(b"\n")[:-1]


def _append(path: Path, data: bytes) -> None:
    """Appends complete lines to a file, so a reader never sees half a line."""
    replace_file(path, b"".join(line + b"\n" for line in _whole_lines(path)) + data)
