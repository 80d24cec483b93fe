"""The sentences and table cells of a report, shared by the page and the Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fkjax.acquisition import ORACLES
from fkjax.report.analysis import Analysis, Cost, Interval, Pair, Reached
from fkjax.report.comparison import ComparedExperiment, Comparison, shown
from fkjax.report.statistics import Paired, pairs_needed, smallest_p
from fkjax.runs.past_run import Run

_LEVEL = 0.05

TITLES = {"area": "area under the curve", "test": "final test accuracy"}
"""Display names of the measures on which pairs are compared."""


def headline(comparison: Comparison, analysis: Analysis) -> str:
    """Returns a sentence on which strategy is best, and by how much."""
    ablations = {s.name for s in comparison.strategies if s.original in ORACLES}
    areas = [
        (s.measures["area"], s.name)
        for s in analysis.summaries
        if s.name not in ablations and math.isfinite(s.measures["area"].mean)
    ]
    if not areas:
        return ""
    labels = {tuple(s.num_labeled) for s in comparison.strategies}
    if len(labels) > 1:
        return (
            "The strategies were not all measured at the same numbers of labels, so "
            "their areas and final results are not comparable. Pairs are compared at "
            "the numbers of labels that both have."
        )
    areas.sort(key=lambda pair: -pair[0].mean)
    best, *others = areas
    text = f"{best[1]} has the largest area under the learning curve: {_area(best)}"
    if not others:
        text = f"The area under the learning curve of {best[1]} is {_area(best)}"
    if len(others) > 1:
        text += f"; {others[0][1]} is next with {_area(others[0])}"
    if others:
        place = "the smallest, " if len(others) > 1 else ""
        text += f"; {others[-1][1]} has {place}{_area(others[-1])}"
    if ablations:
        text += f" (not ranked: {' and '.join(sorted(ablations))}, which uses hidden "
        text += "labels)"
    return text + "."


def _area(pair: tuple[Interval, str]) -> str:
    return f"{with_interval(pair[0])} %"


def power(pairs: Sequence[Pair]) -> str:
    """Returns a sentence on the smallest p-value that the tests of pairs can give."""
    if not pairs:
        return (
            "There are no pairs to compare: no two strategies share a seed and a "
            "number of labels."
        )
    most = max(pair.tests["area"].num_pairs for pair in pairs)
    lowest, num = smallest_p(most), len(pairs)
    needed = pairs_needed(num)
    if most == 1:
        return (
            "A single paired seed cannot distinguish a difference from chance: with "
            f"{num} pair{'s' if num > 1 else ''} of strategies, this takes at least "
            f"{needed} seeds."
        )
    text = (
        f"With {most} paired seeds, the two-sided Wilcoxon signed-rank test cannot "
        f"give a p-value below 2/2^{most} = {lowest:.4g}"
    )
    if num > 1:
        after = p_value(min(1.0, num * lowest))
        text += f", or {after} after Holm's correction for {num} pairs"
    if most < needed:
        text += (
            f". No difference, however large, can be significant at the {_LEVEL} level "
            f"here: that takes at least {needed} seeds"
        )
    return text + "."


def few_seeds(analysis: Analysis) -> str:
    """Returns a caution about intervals from few seeds, or an empty string."""
    fewest = min(summary.num_seeds for summary in analysis.summaries)
    if fewest == 1:
        return (
            "Results of a single seed have no interval and may differ much for another "
            "seed."
        )
    if fewest < 10:
        return f"Intervals from only {fewest} seeds tend to be too narrow."
    return ""


def with_interval(interval: Interval, *, digits: int = 1) -> str:
    """Formats a mean with its interval."""
    if math.isnan(interval.low):
        return number(interval.mean, digits)
    ends = f"{interval.low:.{digits}f}, {interval.high:.{digits}f}"
    return f"{number(interval.mean, digits)} [{ends}]"


def difference(test: Paired) -> str:
    """Formats a mean difference with its sign and interval."""
    if math.isnan(test.low):
        return _signed(test.mean)
    return f"{_signed(test.mean)} [{_signed(test.low)}, {_signed(test.high)}]"


def number(value: float, digits: int = 1) -> str:
    """Formats a number; one that is not finite becomes a dash."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def p_value(p: float) -> str:
    """Formats a p-value."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}".rstrip("0").rstrip(".")


def labels_needed(reached: Reached) -> tuple[str, str]:
    """Formats the number of labels needed for an accuracy, and its range over seeds."""
    if reached.at is None:
        text = "not reached"
    else:
        text = f"{'≤ ' if reached.is_at_start else ''}{reached.at:,.0f}"
    there = [at for at in reached.by_seed if at is not None]
    count, num = len(there), len(reached.by_seed)
    if num == 1:
        return text, ""
    if not there:
        return text, "by any seed"
    span = " to ".join(dict.fromkeys(f"{f(there):,.0f}" for f in (min, max)))
    who = "" if count == num else f", {count} of {num} seeds"
    return text, span + who


def phases(costs: Iterable[Cost]) -> list[str]:
    """Returns all phases of a round, in order."""
    return list(dict.fromkeys(phase for cost in costs for phase in cost.phases))


def peak(cost: Cost) -> str:
    """Formats a strategy's highest peak memory and its phase; a dash if unknown."""
    if not cost.peak_memory_mb:
        return "–"
    phase, megabytes = max(cost.peak_memory_mb.items(), key=lambda pair: pair[1])
    return f"{megabytes:,.0f} ({phase})"


class Setting(NamedTuple):
    """One row of the table of settings.

    Attributes:
        name: name of the setting.
        values: value in each experiment, formatted.
        differs: whether the values differ.
    """

    name: str
    values: list[str]
    differs: bool


def configuration(experiments: Sequence[ComparedExperiment]) -> list[Setting]:
    """Returns all settings and versions, those that differ first.

    Args:
        experiments: experiments compared, one for each column.
    """
    columns = [[_flat(run) for run in e.runs] for e in experiments]
    names = sorted({name for column in columns for one in column for name in one})
    names.sort(key=lambda name: name.startswith("version of"))
    lines = []
    for name in names:
        said = [[shown(one.get(name)) for one in column] for column in columns]
        values = [", ".join(dict.fromkeys(values)) for values in said]
        differs = len({value for values in said for value in values}) > 1
        lines.append(Setting(name, values, differs))
    return sorted(lines, key=lambda line: not line.differs)


def _flat(run: Run) -> dict[str, Any]:
    left_out = ("versions", "seeds", "output_dir", "data", "overwrite")
    config = {k: v for k, v in run.config.items() if k not in left_out}
    seeds = sorted({record["seed"] for record in run.records})
    config["seed"] = seeds[0] if len(seeds) == 1 else seeds
    versions = run.config.get("versions")
    if isinstance(versions, dict):
        config |= {f"version of {name}": v for name, v in versions.items()}
    return config


def _signed(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text
