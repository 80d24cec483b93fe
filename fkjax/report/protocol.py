"""The role of the validation set and the prior correction, in a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fkjax.report.curves import group_records, shared_rounds
from fkjax.runs.record import Record

HEADER = ("strategy", "validation set", "tau", "T", "test", "uncorrected")
"""The header of the table of corrections."""

EXPLANATION = (
    "Strength tau and temperature T of the prior correction, means over seeds, and the "
    "test accuracy in percent with and without it."
)
"""A sentence on the table of corrections."""

_ROLES = {"train": "trained on", "hold-out": "held out"}


def last_records(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Returns the records of each strategy at the last round that its seeds share."""
    return {
        strategy: [run[shared[-1]] for run in seeds.values()]
        for strategy, seeds in group_records(records).items()
        if (shared := shared_rounds(seeds))
    }


def corrections(last: Mapping[str, Sequence[Record]]) -> list[list[str]]:
    """Returns the rows of the table of corrections, with the columns `HEADER`.

    Args:
        last: records of each seed after the last round, by strategy.

    Returns:
        A row for each strategy; none if no strategy trains on the validation set or
        corrects predictions.
    """
    rows = []
    for strategy, records in last.items():
        records = [record for record in records if "validation_role" in record]
        if not records:
            rows.append([strategy, _ROLES["hold-out"], "–", "–", "–", "–"])
            continue
        roles = dict.fromkeys(record["validation_role"] for record in records)
        rows.append(
            [
                strategy,
                ", ".join(_ROLES.get(str(role), str(role)) for role in roles),
                _mean(record["correction_strength"] for record in records),
                _mean(record["correction_temperature"] for record in records),
                _mean(_percent(record["test_accuracy"]) for record in records),
                _mean(
                    _percent(record["test_accuracy_uncorrected"]) for record in records
                ),
            ]
        )
    return rows if any(row[-1] != "–" for row in rows) else []


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _mean(values: Any) -> str:
    mean = np.mean(np.array(list(values), float))
    return f"{mean:.2f}" if np.isfinite(mean) else "–"
