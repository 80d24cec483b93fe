"""The numbers of a report as CSV and as Markdown."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fkjax.files.spreadsheet import csv_bytes, inert
from fkjax.report import findings, protocol
from fkjax.report.analysis import COMPARED, MEASURES, Analysis, Summary
from fkjax.report.comparison import Comparison
from fkjax.report.tables import escape_markdown, markdown, markdown_corrections

COLUMNS = (
    "table strategy against seed labels measure value low high seeds wins ties losses "
    "p p_corrected".split()
)
"""The columns of the CSV file. The values of the column `table`:

- run: measures of each seed at each number of labels; those of runs that train on
  the validation set or correct predictions include the uncorrected accuracies, and the
  strength and temperature of the correction;
- curve: means over seeds and their bootstrap intervals;
- final: the same for the measures after the last round;
- labels: number of labels at which a mean curve reaches an accuracy; no value if it
  does not;
- pair: mean differences between `strategy` and `against`, and their tests;
- cost: seconds of each phase of a round and of pretraining, and peak memory in MB.

Accuracies are in percent, differences in percentage points.
"""

MARK = "<!-- made by fkjax.report -->"
"""The first line of the Markdown file."""


def to_csv(comparison: Comparison, analysis: Analysis) -> bytes:
    """Writes all numbers as one long CSV table with the header `COLUMNS`.

    Args:
        comparison: strategies compared.
        analysis: numbers of the comparison.
    """
    rows = [
        [_cell(line.get(column, "")) for column in COLUMNS]
        for line in _lines(comparison, analysis)
    ]
    return csv_bytes([COLUMNS, *rows])


def to_markdown(comparison: Comparison, analysis: Analysis) -> bytes:
    """Writes the tables of the page as Markdown, without charts and images.

    Args:
        comparison: strategies compared.
        analysis: numbers of the comparison.
    """
    text = escape_markdown
    parts = [MARK, f"# {text(comparison.dataset)}: strategies compared"]
    parts += [text(findings.headline(comparison, analysis))]
    parts += [text(findings.few_seeds(analysis))]
    parts += ["\n".join(f"- {text(note)}" for note in comparison.notes)]
    parts += [
        "## After the last round",
        "Means over seeds in percent, with 95 % bootstrap intervals. The area is the "
        "mean of the test accuracy over the rounds.",
        _finals(analysis.summaries),
        *_corrections(comparison),
        "## Learning curves",
        "Mean test accuracy in percent.",
        _curves(analysis),
        "## Labels needed",
        "Number of labels at which the mean test accuracy first reaches a target; in "
        "parentheses, the range over the seeds that reach it.",
        _needed(analysis),
        "## Pairs of strategies",
        text(findings.power(analysis.pairs)),
        *(_pairs(analysis, measure) for measure in COMPARED if analysis.pairs),
        "## Seconds per round",
        _costs(analysis),
        "## Configuration and versions",
        _configuration(comparison),
    ]
    return ("\n\n".join(p.strip() for p in parts if p.strip()) + "\n").encode()


def _lines(comparison: Comparison, analysis: Analysis) -> Iterator[dict[str, Any]]:
    for strategy in comparison.strategies:
        for seed, run in strategy.seeds.items():
            for record in run:
                place = {"table": "run", "strategy": strategy.name, "seed": seed}
                place["labels"] = record["num_labeled"]
                worst = np.fmin.reduce(np.array(record["class_accuracy"], float))
                values = record["test_accuracy"], record["balanced_accuracy"], worst
                found = dict(zip(MEASURES, values, strict=False))
                for name in ("test", "balanced"):
                    if (field := f"{name}_accuracy_uncorrected") in record:
                        found[f"{name}, uncorrected"] = record[field]
                for measure, value in found.items():
                    percent = math.nan if value is None else 100 * value
                    yield {**place, "measure": measure, "value": percent}
                for name in ("strength", "temperature"):
                    if (field := f"correction_{name}") in record:
                        measure = f"{name} of the correction"
                        yield {**place, "measure": measure, "value": record[field]}
    for measure, curves in zip(MEASURES, analysis.curves.values(), strict=False):
        for name, curve in curves.items():
            for i, labels in enumerate(curve.num_labeled.tolist()):
                yield {
                    "table": "curve",
                    "strategy": name,
                    "labels": labels,
                    "measure": measure,
                    "value": 100 * curve.mean[i],
                    "low": 100 * curve.low[i],
                    "high": 100 * curve.high[i],
                    "seeds": curve.num_seeds[i],
                }
    for summary in analysis.summaries:
        for measure, interval in summary.measures.items():
            yield {
                "table": "final",
                "strategy": summary.name,
                "labels": summary.num_labeled,
                "measure": measure,
                "value": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "seeds": summary.num_seeds,
            }
    for reached in analysis.reached:
        there = [at for at in reached.by_seed if at is not None]
        yield {
            "table": "labels",
            "strategy": reached.name,
            "measure": f"labels to {reached.target:g} %",
            "value": "" if reached.at is None else reached.at,
            "low": min(there, default=""),
            "high": max(there, default=""),
            "seeds": len(there),
        }
    for pair in analysis.pairs:
        for measure, test in pair.tests.items():
            yield {
                "table": "pair",
                "strategy": pair.first,
                "against": pair.second,
                "labels": pair.num_labeled[-1],
                "measure": measure,
                "value": test.mean,
                "low": test.low,
                "high": test.high,
                "seeds": test.num_pairs,
                "wins": test.wins,
                "ties": test.ties,
                "losses": test.losses,
                "p": test.p,
                "p_corrected": pair.corrected[measure],
            }
    for cost in analysis.costs:
        numbers = {f"seconds of {k}": v for k, v in cost.phases.items()}
        numbers["seconds of a round"] = cost.round
        numbers["seconds of pretraining"] = cost.pretraining
        numbers |= {f"peak MB of {k}": v for k, v in cost.peak_memory_mb.items()}
        for measure, value in numbers.items():
            line = {"table": "cost", "strategy": cost.name, "measure": measure}
            yield {**line, "value": value}


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, float):
        return f"{value:.10g}" if math.isfinite(value) else ""
    return value


def _finals(summaries: Sequence[Summary]) -> str:
    rows = [
        [
            escape_markdown(summary.name),
            str(summary.num_seeds),
            f"{summary.num_labeled:,}",
            *map(findings.with_interval, summary.measures.values()),
        ]
        for summary in summaries
    ]
    return markdown(["strategy", "seeds", "labels", *MEASURES], rows)


def _corrections(comparison: Comparison) -> list[str]:
    table = markdown_corrections(comparison.last_records())
    return [protocol.EXPLANATION, table] if table else []


def _curves(analysis: Analysis) -> str:
    curves = analysis.curves["test_accuracy"]
    labels = sorted({n for c in curves.values() for n in c.num_labeled.tolist()})
    rows = []
    for count in labels:
        row = [f"{count:,}"]
        for curve in curves.values():
            means = dict(zip(curve.num_labeled.tolist(), curve.mean, strict=True))
            row.append(findings.number(100 * float(means.get(count, math.nan))))
        rows.append(row)
    return markdown(["labels", *map(escape_markdown, curves)], rows)


def _needed(analysis: Analysis) -> str:
    rows = []
    for summary in analysis.summaries:
        mine = [r for r in analysis.reached if r.name == summary.name]
        cells = [
            f"{text} ({seeds})" if seeds else text
            for text, seeds in map(findings.labels_needed, mine)
        ]
        rows.append([escape_markdown(summary.name), *cells])
    heads = [f"{target:g} %" for target in analysis.targets]
    return markdown(["strategy", *heads], rows)


def _pairs(analysis: Analysis, measure: str) -> str:
    rows = []
    for pair in analysis.pairs:
        test = pair.tests[measure]
        rows.append(
            [
                escape_markdown(f"{pair.first} − {pair.second}"),
                findings.difference(test),
                str(test.num_pairs),
                f"{test.wins} / {test.ties} / {test.losses}",
                escape_markdown(findings.p_value(test.p)),
                escape_markdown(findings.p_value(pair.corrected[measure])),
            ]
        )
    heads = ["mean difference", "seeds", "wins / ties / losses", "p", "p, corrected"]
    title = findings.TITLES[measure].capitalize()
    return f"{title}, in percentage points:\n\n" + markdown(["pair", *heads], rows)


def _costs(analysis: Analysis) -> str:
    phases = findings.phases(analysis.costs)
    rows = [
        [
            escape_markdown(cost.name),
            *(findings.number(cost.phases.get(p, math.nan), 3) for p in phases),
            findings.number(cost.round, 3),
            findings.number(cost.pretraining, 1),
            escape_markdown(findings.peak(cost)),
        ]
        for cost in analysis.costs
    ]
    heads = [*map(escape_markdown, phases), "round", "pretraining", "peak MB"]
    return markdown(["strategy", *heads], rows)


def _configuration(comparison: Comparison) -> str:
    rows = []
    for line in findings.configuration(comparison.experiments):
        cells = [escape_markdown(text) for text in (line.name, *line.values)]
        rows.append([f"**{cell}**" for cell in cells] if line.differs else cells)
    names = [escape_markdown(e.name) for e in comparison.experiments]
    return markdown(["setting", *names], rows)
