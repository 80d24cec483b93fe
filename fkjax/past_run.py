"""A run that was made: its folder, read and checked."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.reporting import RunFolder


class Run(NamedTuple):
    """One folder.

    Attributes:
        folder: where it is.
        config: what is in its config.json.
        records: what is in its rounds.jsonl.
    """

    folder: RunFolder
    config: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def tracks(self) -> set[tuple[str, int]]:
        """The (strategy, seed) pairs in it."""
        return {(record["strategy"], record["seed"]) for record in self.records}


def read_run(path: Path) -> Run:
    """Reads a run's folder.

    Args:
        path: the folder.

    Raises:
        UserError: if it is missing or damaged, or has no finished round.
    """
    folder = RunFolder.open(path)
    try:
        config = folder.read_config()
    except ValueError as error:
        raise UserError(
            f"The file {path / 'config.json'} must be JSON, but it is damaged: put "
            "back the file that the run wrote."
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("dataset"), str):
        raise UserError(
            f"The file {path / 'config.json'} must be an object that names the "
            "dataset, but it is not: put back the file that the run wrote."
        )
    records = folder.read_records()
    if not records:
        raise UserError(
            f"The run in {path} has no finished round yet: leave it out, or let it "
            "finish one."
        )
    for number, record in enumerate(records, start=1):
        wrong = _wrong_field(record, len(_list(records[0], "confusion")))
        if wrong:
            raise UserError(
                f"Each line of {path / 'rounds.jsonl'} must be the record of a round, "
                f"but line {number} has no usable {wrong}: mend or delete that line."
            )
        if record["dataset"] != config["dataset"]:
            raise UserError(
                f"The folder {path} must be of one run, but its config.json is of "
                f"{config['dataset']} and line {number} of its rounds.jsonl of "
                f"{record['dataset']}: put back the files that the run wrote."
            )
    return Run(folder, config, records)


def unfinished(run: Run) -> list[str]:
    """A sentence on what is missing of a run's rounds, if anything is."""
    seeds, rounds = run.config.get("seeds"), run.config.get("rounds")
    strategies = run.config.get("strategies")
    if not (isinstance(seeds, int) and isinstance(rounds, int)):
        return []
    if not isinstance(strategies, list):
        return []
    played: dict[tuple[str, int], dict[int, bool]] = {}
    for record in run.records:
        track = played.setdefault((record["strategy"], record["seed"]), {})
        track[record["round"]] = has_stopped(record)
    complete = sum(len(t) >= rounds or any(t.values()) for t in played.values())
    wanted = seeds * len(strategies)
    if complete >= wanted:
        return []
    done = sum(map(len, played.values()))
    return [
        f"{run.folder.path} is unfinished: {complete} of its {wanted} strategies and "
        f"seeds are complete, with {done} rounds in all."
    ]


def has_stopped(record: Mapping[str, Any]) -> bool:
    """Whether a stop rule ended the run after this record."""
    return bool(record.get("stop"))


def _list(record: Any, key: str) -> list[Any]:
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    """As records have them: null stands for NaN."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (is_real and math.isfinite(value))


def _wrong_field(record: Any, num_classes: int) -> str:
    """The first field that is not as a run writes it, or nothing."""
    if not isinstance(record, dict):
        return "field"
    for key in ("dataset", "strategy"):
        if not isinstance(record.get(key), str):
            return key
    for key in ("seed", "round", "num_labeled"):
        if not isinstance(record.get(key), int):
            return key
    for key in ("test_accuracy", "balanced_accuracy"):
        if key not in record or not _is_number(record[key]):
            return key
    for key in ("class_accuracy", "queried_per_class"):
        row = _list(record, key)
        if len(row) != num_classes or not all(map(_is_number, row)):
            return key
    rows = _list(record, "confusion")
    if not rows or len(rows) != num_classes:
        return "confusion"
    for row in rows:
        if not isinstance(row, list) or len(row) != num_classes:
            return "confusion"
        if not all(isinstance(cell, int) for cell in row):
            return "confusion"
    for key, by_phase in (
        ("seconds", record.get("seconds")),
        ("peak_memory_mb", record.get("peak_memory_mb", {})),  # older runs have none
    ):
        if not isinstance(by_phase, dict) or None in by_phase.values():
            return key
        if not all(map(_is_number, by_phase.values())):
            return key
    return ""
