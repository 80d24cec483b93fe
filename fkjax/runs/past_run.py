"""A run that was made: what its folder holds, and whether it is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.runs.folder import RunFolder


class Run(NamedTuple):
    """One folder.

    Attributes:
        folder: where it is.
        config: what is in its config.json.
        records: what is in its rounds.jsonl; at least one.
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
    config, records = folder.read_config(), folder.read_records()
    if not isinstance(config.get("dataset"), str):
        raise UserError(
            f"The file {path / 'config.json'} must name the dataset, but it does not: "
            "put back the file that the run wrote."
        )
    if not records:
        raise UserError(
            f"The run in {path} has no finished round yet: leave it out, or let it "
            "finish one."
        )
    if config.get("oracle") == "file":  # a person may have named new classes
        records = _with_all_classes(records)
    for number, record in enumerate(records, start=1):
        for what, found, wanted in (
            ("dataset", record["dataset"], config["dataset"]),
            ("number of classes", *(len(r["confusion"]) for r in (record, records[0]))),
        ):
            if found != wanted:
                raise UserError(
                    f"The folder {path} must be of one run, but the {what} is {found} "
                    f"in line {number} of its rounds.jsonl and {wanted} before: put "
                    "back the files that the run wrote."
                )
    return Run(folder, config, records)


def _with_all_classes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the classes of the last, of which earlier ones have no count."""
    num_classes = max(len(record["confusion"]) for record in records)
    padded = []
    for record in records:
        num_new = num_classes - len(record["confusion"])
        rows = [row + [0] * num_new for row in record["confusion"]]
        counts = {
            "confusion": rows + [[0] * num_classes for _ in range(num_new)],
            "class_accuracy": record["class_accuracy"] + [None] * num_new,
            "queried_per_class": record["queried_per_class"] + [0] * num_new,
        }
        padded.append(record | counts)
    return padded


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
    return [
        f"{run.folder.path} is unfinished: of {len(strategies)} strategies with "
        f"{seeds} seeds each, {complete} of {wanted} are complete."
    ]


def has_stopped(record: Mapping[str, Any]) -> bool:
    """Whether a stop rule ended the run after this record."""
    return bool(record.get("stop"))
