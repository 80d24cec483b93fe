"""A comparison of runs as one HTML page without scripts or external files."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

from fkjax.report import charts, findings, protocol
from fkjax.report.analysis import COMPARED, Analysis, Pair
from fkjax.report.comparison import ComparedStrategy, Comparison, shown
from fkjax.report.galleries import Gallery
from fkjax.report.html import environment

_MOST_PAIRS = 21  # in a chart: the pairs of seven strategies
_METRICS = {
    "test_accuracy": "Test accuracy (%)",
    "balanced_accuracy": "Balanced accuracy (%)",
    "worst_class_accuracy": "Accuracy of the worst class (%)",
}


def render(
    comparison: Comparison, analysis: Analysis, galleries: Sequence[Gallery]
) -> str:
    """Renders the page; every name and sentence in it is escaped.

    Args:
        comparison: strategies compared.
        analysis: numbers of the comparison.
        galleries: images of queried examples.

    Returns:
        The HTML of the page.
    """
    strategies = comparison.strategies
    names = [strategy.name for strategy in strategies]
    template = environment().get_template("report.html.jinja")
    phases = findings.phases(analysis.costs)
    needed = {
        name: [findings.labels_needed(r) for r in analysis.reached if r.name == name]
        for name in names
    }
    return template.render(
        dataset=comparison.dataset,
        subtitle=_subtitle(comparison),
        headline=findings.headline(comparison, analysis),
        caution=findings.few_seeds(analysis),
        notes=comparison.notes,
        signs={name: rest for name, *rest in charts.legend(names)},
        curves=[
            (title, charts.learning_curve(analysis.curves[metric], title=title))
            for metric, title in _METRICS.items()
        ],
        summaries=analysis.summaries,
        corrections=protocol.corrections(comparison.last_records()),
        correction_heads=protocol.HEADER[1:],
        correction_note=protocol.EXPLANATION,
        targets=analysis.targets,
        target_heads=[f"{target:g} %" for target in analysis.targets],
        needed=needed,
        power=findings.power(analysis.pairs),
        paired=[_paired(analysis.pairs, key, names) for key in COMPARED]
        if analysis.pairs
        else [],
        pairs=analysis.pairs,
        classes=_classes(strategies),
        confusions=_confusions(strategies),
        galleries=galleries,
        phases=phases,
        costs=analysis.costs,
        cost_chart=charts.seconds(
            analysis.costs, title="Seconds of each phase of a round"
        ),
        memory_phases=list(
            dict.fromkeys(p for cost in analysis.costs for p in cost.peak_memory_mb)
        ),
        experiments=[
            {
                "name": experiment.name,
                "folders": ", ".join(str(run.folder.path) for run in experiment.runs),
            }
            for experiment in comparison.experiments
        ],
        configuration=findings.configuration(comparison.experiments),
        version=importlib.metadata.version("fkjax"),
        number=findings.number,
        difference=findings.difference,
        p_value=findings.p_value,
        seconds=_seconds,
    )


def _subtitle(comparison: Comparison) -> str:
    """Returns one line with the main settings that all runs share."""
    config = comparison.experiments[0].runs[0].config
    lines = findings.configuration(comparison.experiments)
    same = {line.name for line in lines if not line.differs}
    parts = []
    if {"imbalance", "imbalance_ratio"} <= same:
        bias = str(config["imbalance"]).replace("_", " ")
        ratio = shown(config["imbalance_ratio"]).removesuffix(".0")
        parts.append(f"{bias} imbalance {ratio}x")
    for name, text in (
        ("model", "{}"),
        ("budget", "{} labels per round"),
        ("validation_size", "{} validation examples"),
    ):
        if name in same:
            parts.append(text.format(config[name]))
    num_seeds = {len(strategy.seeds) for strategy in comparison.strategies}
    fewest, most = min(num_seeds), max(num_seeds)
    seeds = f"{fewest} to {most}" if fewest < most else f"{most}"
    return " · ".join([*parts, f"{seeds} seed{'s' if most > 1 else ''}"])


def _paired(pairs: Sequence[Pair], key: str, names: Sequence[str]) -> dict[str, Any]:
    """Returns the chart and the matrix of wins, ties and losses of one measure."""
    counts = {}
    for pair in pairs:
        test = pair.tests[key]
        cells = [str(test.wins), str(test.ties), str(test.losses)]
        counts[pair.first, pair.second] = " / ".join(cells)
        counts[pair.second, pair.first] = " / ".join(reversed(cells))
    title = findings.TITLES[key]
    chart = None
    if len(pairs) <= _MOST_PAIRS:
        chart = charts.differences(pairs, key, title=f"Differences in {title}")
    matrix = [(row, [counts.get((row, n), "–") for n in names]) for row in names]
    return {
        "key": key,
        "title": title,
        "chart": chart,
        "names": names,
        "matrix": matrix,
    }


def _classes(strategies: Sequence[ComparedStrategy]) -> list[tuple[str, Any]]:
    counts = [
        np.nanmean(np.array(s.values("queried_per_class"), float), axis=0)
        for s in strategies
    ]
    top = max(1.0, *(each.sum(axis=0).max() for each in counts))
    return [
        (
            s.name,
            charts.queried_per_class(
                s.values("round")[0],
                each,
                top=top,
                title=f"Queried examples by class and round, {s.name}",
            ),
        )
        for s, each in zip(strategies, counts, strict=True)
    ]


def _confusions(strategies: Sequence[ComparedStrategy]) -> list[tuple[str, Any]]:
    made = []
    for strategy in strategies:
        last = [run[-1] for run in strategy.seeds.values()]
        title = f"{strategy.name}, {last[0]['num_labeled']:,} labels"
        alt = f"Confusion matrix of {title}"
        made.append((title, charts.confusion(last, title=alt)))
    return made


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return findings.number(value, 1 if value >= 10 else 2 if value >= 0.1 else 3)
