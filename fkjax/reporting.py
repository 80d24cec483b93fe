"""The files that a run leaves behind: its configuration, its records, its queries.

A record is one round of one run, a plain dict: dataset, strategy, seed, round,
num_labeled, test_accuracy, balanced_accuracy, class_accuracy [C], queried_per_class
[C], confusion [C, C] (rows are the true class), checkpoint_selection,
num_random, num_mistakes and seconds (by phase); of an ensemble, member_accuracy [E].
Accuracies are fractions.
Where a (strategy, seed, round) comes twice, the later record counts.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError

Record = Mapping[str, Any]

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
        with _explained("create the output folder", path):
            if path.is_dir() and any(path.iterdir()):
                raise UserError(
                    f"The output folder must be new or empty, but {path} holds files "
                    "already: choose another, or move them away."
                )
            if path.exists() and not path.is_dir():
                raise UserError(
                    f"The output folder must be a folder, but {path} is a file: "
                    "choose another path."
                )
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Opens the folder of an earlier run, to read it or to go on.

        Raises:
            UserError: if there is no run in it.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            raise UserError(
                f"The folder of an earlier run holds a config.json, but {path} has "
                "none: check the path."
            )
        return cls(path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json whole or not at all, its keys sorted."""
        text = json.dumps(
            _plain(config),
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
        )
        replace_file(self.path / "config.json", _encode(text + "\n"))

    def read_config(self) -> dict[str, Any]:
        """Reads config.json."""
        with _explained("read", self.path / "config.json"):
            return json.loads((self.path / "config.json").read_bytes())

    def append_record(self, record: Record) -> None:
        """Appends one line to rounds.jsonl; NaN and the infinities become null."""
        text = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
        _append(self.path / "rounds.jsonl", _encode(text + "\n"))

    def read_records(self) -> list[dict[str, Any]]:
        """Reads the whole lines of rounds.jsonl; a torn last line is left out."""
        path = self.path / "rounds.jsonl"
        records = []
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(
                    f"Each line of {path} must be a JSON object, but line {number} is "
                    "not: mend or delete that line."
                ) from error
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
        with _explained("read", path):
            is_new = not path.exists() or not path.stat().st_size
        rows: list[Sequence[Any]] = [QUERY_COLUMNS] if is_new else []
        for numbers in zip(ids, labels, pseudo_labels, target_ids, strict=True):
            cells = ["" if int(n) == -1 else int(n) for n in numbers]
            rows.append([_inert(strategy), int(seed), int(round), *cells])
        _append(path, _csv_bytes(rows))

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
            text = b"".join(line + b"\n" for line in _whole_lines(path)).decode()
            first, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
            mine = [_inert(strategy), str(seed)]
            kept = [r for r in rows if r[:2] != mine or int(r[2]) < round]
            replace_file(path, _csv_bytes([first, *kept] if first else []))


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all.

    Args:
        path: the file, which may exist.
        data: all that it is to hold.

    Raises:
        UserError: if it cannot be written.
    """
    with _explained("write", path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Turns arrays, tuples and paths into what JSON has; NaN and inf into None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _inert(text: str) -> str:
    """Keeps a spreadsheet from running the text of a CSV cell as a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return _encode(buffer.getvalue())


def _encode(text: str) -> bytes:
    """UTF-8; of an undecodable file name, the escapes that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _explained(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a sentence for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Could not {doing} {path}: {error.strerror or error}; free some space, "
            "mend the permissions or choose another folder."
        ) from error


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file up to its last newline; none if there is no file."""
    with _explained("read", path):
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _append(path: Path, data: bytes) -> None:
    """Appends whole lines in one write, or nothing."""
    with _explained("write", path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # torn by a kill or a power cut
                size = path.read_bytes().rfind(b"\n") + 1
                file.truncate(size)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
