"""Learning curves over the seeds of each strategy."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fkjax.runs.record import Record

Reference = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Published curves: name -> (numbers of labels, test accuracies in percent)."""


class Curve(NamedTuple):
    """The learning curve of one strategy over its seeds, as fractions.

    Each round is aggregated over the seeds that have reached it, so the number of seeds
    may differ between rounds of an unfinished run.

    Attributes:
        num_labeled: number of labeled examples, mean over seeds, rounded. Shape [R].
        mean: mean over seeds. Shape [R].
        std: sample standard deviation over seeds; NaN for a single one. Shape [R].
        low: lowest value of all seeds. Shape [R].
        high: highest value of all seeds. Shape [R].
        accuracy: value of each seed; NaN where it has not reached the round.
            Shape [S, R].
        num_seeds: number of seeds that have reached the round. Shape [R].
    """

    num_labeled: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    accuracy: np.ndarray
    num_seeds: np.ndarray


def learning_curves(
    records: Iterable[Record], *, metric: str = "test_accuracy"
) -> dict[str, Curve]:
    """Aggregates the records of one dataset into a curve for each strategy.

    Args:
        records: records of any number of strategies, seeds and rounds.
        metric: record field to aggregate.

    Returns:
        A curve for each strategy, in order of first appearance.
    """
    curves = {}
    for strategy, seeds in group_records(records).items():
        rounds = sorted(set().union(*seeds.values()))
        missing = {"num_labeled": None, metric: None}
        table = np.array(
            [
                [[run.get(r, missing)[k] for k in missing] for r in rounds]
                for run in seeds.values()
            ],
            dtype=float,
        )
        labeled, accuracy = table[..., 0], table[..., -1]
        count = (~np.isnan(accuracy)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(accuracy, axis=0) / count
            square = np.nansum((accuracy - mean) ** 2, axis=0)
            std = np.sqrt(square / np.where(count > 1, count - 1, np.nan))
        curves[strategy] = Curve(
            num_labeled=np.rint(np.nanmean(labeled, axis=0)).astype(int),
            mean=mean,
            std=std,
            low=np.fmin.reduce(accuracy, axis=0),
            high=np.fmax.reduce(accuracy, axis=0),
            accuracy=accuracy,
            num_seeds=count,
        )
    return curves


def group_records(
    records: Iterable[Record],
) -> dict[str, dict[int, dict[int, Record]]]:
    """Groups the records of one dataset by strategy, seed and round.

    Args:
        records: records of any number of strategies, seeds and rounds.

    Returns:
        The records by strategy, then seed, then round.

    Raises:
        ValueError: if they come from two datasets.
    """
    groups: dict[str, dict[int, dict[int, Record]]] = {}
    datasets = set()
    for record in records:
        datasets.add(record.get("dataset"))
        seeds = groups.setdefault(record["strategy"], {})
        seeds.setdefault(record["seed"], {})[record["round"]] = record
    if len(datasets) > 1:
        raise ValueError(
            f"expected the records of one dataset, got {sorted(map(str, datasets))}: "
            "report each separately"
        )
    return groups


def shared_rounds(seeds: Mapping[int, Mapping[int, Record]]) -> list[int]:
    """Returns the rounds that every seed of a strategy has reached."""
    return sorted(set.intersection(*(set(run) for run in seeds.values())))


def labels_to_reach(
    num_labeled: Iterable[float], accuracy: Iterable[float], target: float
) -> float | None:
    """Computes the number of labels at which a curve first reaches a target.

    The curve is interpolated linearly between its points.

    >>> labels_to_reach([10, 20, 30], [0.5, 0.7, 0.8], 0.6)
    15.0

    Args:
        num_labeled: numbers of labels, increasing. Shape [R].
        accuracy: accuracies in the unit of the target. Shape [R].
        target: accuracy to reach.

    Returns:
        The number of labels, or None if the curve stays below the target.
    """
    points = list(zip(num_labeled, accuracy, strict=True))
    if points[0][1] >= target:
        return float(points[0][0])
    for (x, y), (x_next, y_next) in itertools.pairwise(points):
        if y_next >= target:
            return float(x + (x_next - x) * (target - y) / (y_next - y))
    return None


def round_seconds(record: Record) -> float:
    """Returns the seconds of a round, without the pretraining before the first."""
    phases = record["seconds"].items()
    return sum(seconds for phase, seconds in phases if phase != "pretraining")


def final_measures(run: Sequence[Record]) -> list[float]:
    """Computes one seed's final test, balanced and worst-class accuracy, and its area.

    The area under the curve is the mean of the test accuracy over the rounds.
    """
    if not run:
        return [math.nan] * 4
    last = np.array([run[-1]["test_accuracy"], run[-1]["balanced_accuracy"]], float)
    worst = np.fmin.reduce(np.array(run[-1]["class_accuracy"], float))
    area = np.mean(np.array([record["test_accuracy"] for record in run], float))
    return [*last.tolist(), float(worst), float(area)]
