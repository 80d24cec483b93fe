"""The files that a run leaves behind: its configuration, its records, its queries.

A record is one round of one run, a plain dict: dataset, strategy, seed, round,
num_labeled, test_accuracy, balanced_accuracy, class_accuracy [C], queried_per_class
[C], confusion [C, C] (rows are the true class), checkpoint_selection,
num_random, num_mistakes; seconds and peak_memory_mb (by phase, the only entries that
differ when the same run is made again); of an ensemble, member_accuracy [E]; under a
stop rule, held_out_accuracy and, in the last record, stop. Accuracies are fractions.
Where a (strategy, seed, round) comes twice, the later record counts.
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
CHECKPOINTS = "checkpoints"
QUERY_COLUMNS = "strategy seed round id label pseudo_label target_id".split()


class RunFolder(NamedTuple):
    """The output folder of a run.

    Attributes:
        path: the folder, which exists.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Makes an empty folder, with its parents.

        Raises:
            UserError: if something is already there, or it cannot be written.
        """
        path = Path(path)
        folders.make_output_folder(path)
        return cls(path)

    @classmethod
    def holds_run(cls, path: str | os.PathLike[str]) -> bool:
        """Whether `open` would find a run there."""
        path = Path(path) / "config.json"
        return exists(path) and path.is_file()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Opens the folder of an earlier run, to read it or to go on.

        Raises:
            UserError: if there is no run in it.
        """
        path = Path(path)
        if not cls.holds_run(path):
            raise UserError(
                f"The folder of an earlier run holds a config.json, but {path} has "
                "none: check the path."
            )
        return cls(path)

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes from writing here; the lock ends with the process.

        Raises:
            UserError: if another process has it.
        """
        return folders.locked(self.path)

    def clear(self) -> None:
        """Removes what a run writes, and nothing else."""
        # The configuration last: it marks a run.
        folders.clear(self.path, CHECKPOINTS, *_DATA, *FIGURES, "config.json")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json whole or not at all, its keys sorted."""
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
            UserError: if it cannot be read or is no JSON object.
        """
        path = self.path / "config.json"
        config = _from_json(read_bytes(path))
        if not isinstance(config, dict):
            raise UserError(
                f"A configuration must be a JSON object, but {path} is not: mend it."
            )
        return config

    def append_record(self, record: Record) -> None:
        """Appends one line to rounds.jsonl; NaN and the infinities become null."""
        text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
        _append(self.path / "rounds.jsonl", encoded(text + "\n"))

    def read_records(self) -> list[dict[str, Any]]:
        """Reads the whole lines of rounds.jsonl; a torn last line is left out.

        Raises:
            UserError: naming the first line that is no record, and why.
        """
        path = self.path / "rounds.jsonl"
        records = []
        for number, line in enumerate(_whole_lines(path), start=1):
            record = _from_json(line)
            if what := flaw(record):
                raise UserError(
                    f"Each line of {path} must be a round's record, but line {number} "
                    f"is not ({what}): mend or delete that line."
                )
            records.append(record)
        return records

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
        """Appends the queries of one round to queries.csv; -1 is written as nothing.

        Args:
            ids: dataset ids of the queried examples. Shape [B].
            labels: what the oracle said. Shape [B].
            pseudo_labels: what was assumed before, or -1. Shape [B].
            target_ids: dataset id of the mistake that each answers, or -1. Shape [B].
            strategy: name of the acquisition strategy.
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
        """Drops what one strategy and seed wrote at `round` and later.

        A killed run may have written a round that its checkpoint does not hold yet;
        call this before that round is done again, or its queries are listed twice.
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
                    f"The rows of {path} must be as a run wrote them, but one is not "
                    f"({error}): mend or delete it."
                ) from error
            replace_file(path, csv_bytes([first, *kept] if first else []))


def _from_json(text: bytes) -> Any:
    """What it says, or None, which also stands for text that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # of UTF-8 too, and of deep nesting
        return None


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file up to its last newline; none if there is no file."""
    return (read_if_exists(path) or b"").split(b"\n")[:-1]


def _append(path: Path, data: bytes) -> None:
    """Adds whole lines, or nothing: whoever reads the file meets no half line."""
    replace_file(path, b"".join(line + b"\n" for line in _whole_lines(path)) + data)
