"""The numbers of a report: summaries, labels needed, paired tests and costs."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fkjax.report import statistics
from fkjax.report.comparison import ComparedStrategy, Comparison
from fkjax.report.curves import (
    Curve,
    final_measures,
    labels_to_reach,
    learning_curves,
    round_seconds,
)

MEASURES: tuple[str, ...] = ("test", "balanced", "worst class", "area")
"""The measures of a finished run: three accuracies after the last round, and the area
under the learning curve, which is the mean of the test accuracy over the rounds."""

COMPARED: tuple[str, ...] = ("area", "test")
"""The measures on which pairs of strategies are tested."""


class Interval(NamedTuple):
    """A mean over seeds and its bootstrap interval.

    Attributes:
        mean: mean over seeds; NaN if a seed has no value.
        low: lower end of the interval; NaN for a single seed.
        high: upper end of the interval; NaN for a single seed.
    """

    mean: float
    low: float
    high: float


class Summary(NamedTuple):
    """The results of one strategy after its last round.

    Attributes:
        name: name of the strategy.
        num_seeds: number of seeds, S.
        num_labeled: number of labeled examples.
        measures: the measures named in `MEASURES`, in percent.
    """

    name: str
    num_seeds: int
    num_labeled: int
    measures: dict[str, Interval]


class Reached(NamedTuple):
    """The number of labels that one strategy needed for one accuracy.

    Attributes:
        name: name of the strategy.
        target: accuracy to reach, in percent.
        at: number of labels at which the mean curve reaches the target; None if it
            does not.
        is_at_start: whether the first round already reaches the target.
        by_seed: number of labels at which each seed's curve reaches the target.
            Length S.
    """

    name: str
    target: float
    at: float | None
    is_at_start: bool
    by_seed: list[float | None]


class Pair(NamedTuple):
    """Two strategies compared on the seeds and numbers of labels that both have.

    Attributes:
        first: name of the strategy that comes later in the comparison.
        second: name of the other strategy, whose results are subtracted.
        num_labeled: numbers of labels that both have. Length 1 or more.
        tests: paired tests of the measures in `COMPARED`; differences in percentage
            points.
        corrected: p-values of the same measures after Holm's correction over all
            pairs.
    """

    first: str
    second: str
    num_labeled: list[int]
    tests: dict[str, statistics.Paired]
    corrected: dict[str, float]


class Cost(NamedTuple):
    """The time and memory that one strategy takes.

    Attributes:
        name: name of the strategy.
        phases: seconds of each phase, mean over rounds and seeds.
        round: seconds of a round without pretraining, mean over rounds and seeds.
        pretraining: seconds before the first round, mean over seeds; NaN if unknown.
        peak_memory_mb: peak memory of each phase, including pretraining, in MB: the
            highest of all rounds and seeds; empty if unknown.
    """

    name: str
    phases: dict[str, float]
    round: float
    pretraining: float
    peak_memory_mb: dict[str, float]


class Analysis(NamedTuple):
    """All numbers of a report.

    Attributes:
        summaries: final results of each strategy.
        curves: learning curves by metric, then strategy, as fractions; `low` and `high`
            are the ends of the bootstrap interval.
        targets: accuracies to reach, in percent.
        reached: labels needed by each strategy for each target.
        pairs: comparisons of all pairs of strategies that share a seed and a number of
            labels.
        costs: time and memory of each strategy.
    """

    summaries: list[Summary]
    curves: dict[str, dict[str, Curve]]
    targets: list[float]
    reached: list[Reached]
    pairs: list[Pair]
    costs: list[Cost]


def analyse(comparison: Comparison, *, targets: Sequence[float] = ()) -> Analysis:
    """Computes all numbers of a report.

    Args:
        comparison: strategies to compare.
        targets: accuracies in percent; chosen by `default_targets` if empty.
    """
    strategies = comparison.strategies
    curves = {
        metric: _curves(strategies, metric)
        for metric in ("test_accuracy", "balanced_accuracy", "worst_class_accuracy")
    }
    test = curves["test_accuracy"]
    chosen = list(targets) or default_targets([100 * c.mean for c in test.values()])
    return Analysis(
        summaries=[_summary(strategy) for strategy in strategies],
        curves=curves,
        targets=chosen,
        reached=[
            _reached(name, curve, target)
            for target in chosen
            for name, curve in test.items()
        ],
        pairs=_pairs(strategies),
        costs=[_cost(strategy) for strategy in strategies],
    )


def default_targets(curves: Iterable[Any]) -> list[float]:
    """Returns one to three round numbers to use as target accuracies.

    The lowest is one that every curve reaches, the highest one that only the best
    curves reach.

    >>> default_targets([[50, 65], [60, 94]])
    [65.0, 75.0, 90.0]
    >>> default_targets([[90, 97.2], [90, 98.6]])
    [97.0, 98.0]

    Args:
        curves: accuracies in percent, each of shape [R].
    """
    highest = [top for top in map(np.max, curves) if math.isfinite(top)]
    if not highest:
        return []
    for step in (5, 1):
        low, high = (step * (f(highest) // step) for f in (min, max))
        if high > low:
            break
    middle = step * ((low + high) / 2 // step)
    return sorted({float(low), float(middle), float(high)})


def _curves(strategies: Iterable[ComparedStrategy], metric: str) -> dict[str, Curve]:
    records = [
        {
            **record,
            "strategy": strategy.name,
            "worst_class_accuracy": _lowest(record["class_accuracy"]),
        }
        for strategy in strategies
        for run in strategy.seeds.values()
        for record in run
    ]
    curves = {}
    for name, curve in learning_curves(records, metric=metric).items():
        low, high = statistics.mean_interval(curve.accuracy)
        curves[name] = curve._replace(low=low, high=high)
    return curves


def _lowest(accuracies: Sequence[float | None]) -> float:
    return float(np.fmin.reduce(np.array(accuracies, float)))


def _interval(values: Any) -> Interval:
    low, high = statistics.mean_interval(values)
    return Interval(float(np.mean(values)), float(low), float(high))


def _summary(strategy: ComparedStrategy) -> Summary:
    finals = 100 * np.array([final_measures(run) for run in strategy.seeds.values()])
    return Summary(
        strategy.name,
        len(strategy.seeds),
        strategy.num_labeled[-1],
        dict(zip(MEASURES, map(_interval, finals.T), strict=True)),
    )


def _reached(name: str, curve: Curve, target: float) -> Reached:
    labels = curve.num_labeled.tolist()
    at = labels_to_reach(labels, 100 * curve.mean, target)
    return Reached(
        name,
        target,
        at,
        at is not None and at == labels[0],
        [labels_to_reach(labels, 100 * seed, target) for seed in curve.accuracy],
    )


def _pairs(strategies: Sequence[ComparedStrategy]) -> list[Pair]:
    pairs = []
    for second, first in itertools.combinations(strategies, 2):  # baselines first
        seeds = sorted(first.seeds.keys() & second.seeds.keys())
        labels = sorted(set(first.num_labeled) & set(second.num_labeled))
        if not seeds or not labels:
            continue
        one, two = (
            100 * np.array([_compared(s.seeds[seed], labels) for seed in seeds])
            for s in (first, second)
        )
        tests = [statistics.paired(*c) for c in zip(one.T, two.T, strict=True)]
        by_name = dict(zip(COMPARED, tests, strict=True))
        pairs.append(Pair(first.name, second.name, labels, by_name, {}))
    for measure in COMPARED:
        corrected = statistics.holm([pair.tests[measure].p for pair in pairs])
        for pair, p in zip(pairs, corrected, strict=True):
            pair.corrected[measure] = p
    return pairs


def _compared(run: Sequence[Mapping[str, Any]], labels: Sequence[int]) -> list[float]:
    """Returns the measures in `COMPARED` of one seed at the given numbers of labels."""
    kept = [record for record in run if record["num_labeled"] in labels]
    measures = dict(zip(MEASURES, final_measures(kept), strict=True))
    return [measures[name] for name in COMPARED]


def _cost(strategy: ComparedStrategy) -> Cost:
    records = [record for run in strategy.seeds.values() for record in run]
    phases = dict.fromkeys(phase for record in records for phase in record["seconds"])
    by_phase = {
        phase: [r["seconds"][phase] for r in records if phase in r["seconds"]]
        for phase in phases
    }
    pretraining = by_phase.pop("pretraining", [])
    memory: dict[str, float] = {}
    for record in records:
        for phase, megabytes in record.get("peak_memory_mb", {}).items():
            memory[phase] = max(megabytes, memory.get(phase, 0.0))
    return Cost(
        strategy.name,
        {phase: sum(seconds) / len(records) for phase, seconds in by_phase.items()},
        float(np.mean([round_seconds(record) for record in records])),
        float(np.mean(pretraining)) if pretraining else math.nan,
        memory,
    )
