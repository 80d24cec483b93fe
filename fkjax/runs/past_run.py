"""Reading the folder of an earlier run, and whether the run is complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.runs import manifest
from fkjax.runs.folder import RunFolder


class Run(NamedTuple):
    """The contents of a run folder.

    Attributes:
        folder: folder of the run.
        config: configuration in config.json, with the settings that a labeling session
            has changed since.
        records: records in rounds.jsonl; at least one.
    """

    folder: RunFolder
    config: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def tracks(self) -> set[tuple[str, int]]:
        """The pairs of strategy and seed in the records."""
        return {(record["strategy"], record["seed"]) for record in self.records}


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Args:
        path: path of the folder.

    Raises:
        UserError: if the folder is missing or damaged, or has no finished round.
    """
    folder = RunFolder.open(path)
    config, records = folder.read_config(), folder.read_records()
    if not isinstance(config.get("dataset"), str):
        raise UserError(
            f"{path / 'config.json'} must contain the name of the dataset: restore the "
            "file that the run wrote"
        )
    if not records:
        raise UserError(
            f"the run in {path} has no finished round yet: leave it out, or let it "
            "finish a round"
        )
    if _is_labeling(config):  # a person may have named new classes
        records = _with_all_classes(records)
        images = manifest.read(folder)
        config |= images.settings() if images else {}
    for number, record in enumerate(records, start=1):
        for what, found, wanted in (
            ("dataset", record["dataset"], config["dataset"]),
            ("number of classes", *(len(r["confusion"]) for r in (record, records[0]))),
        ):
            if found != wanted:
                raise UserError(
                    f"{path} must contain a single run, but the {what} is {found} in "
                    f"line {number} of rounds.jsonl and {wanted} before: restore the "
                    "files that the run wrote"
                )
    return Run(folder, config, records)


def _is_labeling(config: Mapping[str, Any]) -> bool:
    return config.get("oracle") == "file"


def _with_all_classes(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pads the records to the classes of the last, as classes may have been added."""
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
    """Returns a sentence on the rounds that a run lacks, or nothing if it is complete.

    Args:
        run: contents of a run folder.

    Returns:
        A list of one sentence, or an empty list.
    """
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
    if run.config.get("validation_role") == "train" and not _is_labeling(run.config):
        rounds += 1  # round 0
    complete = sum(len(t) >= rounds or any(t.values()) for t in played.values())
    wanted = seeds * len(strategies)
    if complete >= wanted:
        return []
    return [
        f"{run.folder.path} is unfinished: {complete} of {wanted} combinations of "
        "strategy and seed are complete."
    ]


def with_protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with the role of the validation set and the correction.

    Runs of before these were settings held the validation set out, or trained on it
    without a round 0, and corrected nothing.
    """
    if "validation_role" in config:
        return {**config}
    config = {**config, "validation_role": "hold-out", "prior_correction": "none"}
    if config.pop("train_on_validation", False):
        config["validation_role"] = "train by --train-on-validation"
    return config


def has_stopped(record: Mapping[str, Any]) -> bool:
    """Returns whether a stop rule ended the run after this record."""
    return bool(record.get("stop"))
