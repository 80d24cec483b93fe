"""Records as curves and tables: means and spreads over the seeds of each strategy."""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.markup
import rich.table

from fkjax.runs.folder import Record

Reference = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Published curves: name -> (numbers of labels, test accuracies in percent)."""


class Curve(NamedTuple):
    """The learning curve of one strategy, over its seeds; fractions, not percent.

    Each round is aggregated over the seeds that have reached it, so the seeds behind
    a point may differ between rounds of an unfinished run: `num_seeds` says how many.

    Attributes:
        num_labeled: labelled examples, mean over seeds, rounded. Shape [R].
        mean: mean over seeds. Shape [R].
        std: sample standard deviation over seeds; NaN for a single one. Shape [R].
        low: the lowest seed. Shape [R].
        high: the highest seed. Shape [R].
        accuracy: each seed; NaN where it has not reached the round. Shape [S, R].
        num_seeds: how many seeds have reached the round. Shape [R].
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
        metric: key of the number to aggregate.

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


def final_table(
    records: Iterable[Record], *, rounds: Collection[int] | None = None
) -> rich.table.Table:
    """Compares the strategies at the last round that all seeds of each have reached.

    Areas are means over rounds. The best is bold where two or more strategies have
    used equally many labels.

    Args:
        records: records of one dataset.
        rounds: the rounds to look at; all if None.

    Returns:
        A row for each strategy, "mean±sample standard deviation over seeds".
    """
    bold = "[bold]{}[/bold]".format
    header, rows = _summary(records, rounds, bold=bold, escape=rich.markup.escape)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.caption = "Accuracies in percent, mean±std over seeds."
    for index, name in enumerate(header):
        if index:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def labeling_table(records: Sequence[Record]) -> rich.table.Table:
    """The rounds in which a person answered, in percent.

    Args:
        records: of `fkjax.labeling`, by round.
    """
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False)
    columns = ["round", "labels", "can't tell", "accuracy on validation"]
    has_test = any(record["test_accuracy"] is not None for record in records)
    columns += ["on test"] if has_test else []
    for column in columns:
        table.add_column(column, justify="right")
    for record in records:
        accuracies = [record["validation_accuracy"]]
        accuracies += [record["test_accuracy"]] if has_test else []
        counts = [record[k] for k in ("round", "num_labeled", "num_cannot_tell")]
        table.add_row(*map(str, counts), *(_number(100 * a) for a in accuracies))
    return table


def markdown_table(
    records: Iterable[Record], reference: Reference | None = None
) -> str:
    """Writes the final table and the learning curves as two Markdown tables.

    Args:
        records: records of one dataset.
        reference: published curves, shown beside the run's own.

    Returns:
        Markdown that ends in a newline.
    """
    records = list(records)
    bold = "**{}**".format
    final = _summary(records, None, bold=bold, escape=escape_markdown)
    return markdown(*final) + "\n" + markdown_curves(records, reference)


def markdown_curves(
    records: Iterable[Record], reference: Reference | None = None
) -> str:
    """Writes the learning curves as a Markdown table, a row for each number of labels.

    Args:
        records: records of one dataset.
        reference: published curves, shown beside the run's own.

    Returns:
        Markdown that ends in a newline.
    """
    curves, reference = learning_curves(records), reference or {}
    bold = "**{}**".format
    ours = [
        dict(zip(c.num_labeled.tolist(), zip(c.mean, c.std, strict=True), strict=True))
        for c in curves.values()
    ]
    published = [dict(zip(*pair, strict=True)) for pair in reference.values()]
    rows = []
    for x in sorted(set().union(*ours, *published)):
        points = [curve.get(x, (math.nan, math.nan)) for curve in ours]
        cells = _cells(100 * np.array(points).reshape(-1, 2), bold=bold)
        rows.append([f"{x:,.0f}", *cells, *(_number(p.get(x)) for p in published)])
    names = [*curves, *(f"{name} (reference)" for name in reference)]
    header = ["labels", *map(escape_markdown, names)]
    return markdown(header, rows)


def group_records(
    records: Iterable[Record],
) -> dict[str, dict[int, dict[int, Record]]]:
    """Sorts the records of one dataset.

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
            f"Expected the records of one dataset, got {sorted(map(str, datasets))}; "
            "report each by itself."
        )
    return groups


def shared_rounds(seeds: Mapping[int, Mapping[int, Record]]) -> list[int]:
    """The rounds that every seed of a strategy has reached."""
    return sorted(set.intersection(*(set(run) for run in seeds.values())))


def labels_to_reach(
    num_labeled: Iterable[float], accuracy: Iterable[float], target: float
) -> float | None:
    """Where a curve, straight between its points, first is at a target.

    >>> labels_to_reach([10, 20, 30], [0.5, 0.7, 0.8], 0.6)
    15.0

    Args:
        num_labeled: rising. Shape [R].
        accuracy: in the unit of the target. Shape [R].
        target: the accuracy to reach.

    Returns:
        The number of labels, or None if the curve stays below.
    """
    points = list(zip(num_labeled, accuracy, strict=True))
    if points[0][1] >= target:
        return float(points[0][0])
    for (x, y), (x_next, y_next) in itertools.pairwise(points):
        if y_next >= target:
            return float(x + (x_next - x) * (target - y) / (y_next - y))
    return None


def _summary(
    records: Iterable[Record],
    rounds: Collection[int] | None,
    *,
    bold: Callable[[str], str],
    escape: Callable[[str], str],
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the final table."""
    header = ["strategy", "seeds", "labels", "test", "balanced", "worst", "area"]
    starts, ends, values = [], [], []
    for strategy, seeds in group_records(records).items():
        shared = [r for r in shared_rounds(seeds) if rounds is None or r in rounds]
        runs = [[run[r] for r in shared] for run in seeds.values()]
        labels = f"{runs[0][-1]['num_labeled']:,}" if shared else "–"
        starts.append([escape(strategy), str(len(seeds)), labels])
        times = [round_seconds(record) for run in runs for record in run]
        ends.append(_number(np.mean(times), digits=1) if times else "–")
        final = 100 * np.array([final_measures(run) for run in runs])  # [S, 4]
        std = final.std(axis=0, ddof=1) if len(final) > 1 else np.full(4, np.nan)
        values.append(np.stack([final.mean(axis=0), std], axis=-1))  # [4, 2]
    is_fair = len({labels for _, _, labels in starts}) == 1
    columns = zip(*values, strict=True)
    cells = [_cells(np.array(c), bold=bold if is_fair else str) for c in columns]
    rows = zip(starts, zip(*cells, strict=True), ends, strict=True)
    return [*header, "s/round"], [[*start, *row, end] for start, row, end in rows]


def round_seconds(record: Record) -> float:
    """The seconds of a round without the pretraining, which comes before the first."""
    phases = record["seconds"].items()
    return sum(seconds for phase, seconds in phases if phase != "pretraining")


def final_measures(run: Sequence[Record]) -> list[float]:
    """Last test, balanced and worst-class accuracy of one seed, and its area.

    The area under the curve is the mean of the test accuracy over the rounds.
    """
    if not run:
        return [math.nan] * 4
    last = np.array([run[-1]["test_accuracy"], run[-1]["balanced_accuracy"]], float)
    worst = np.fmin.reduce(np.array(run[-1]["class_accuracy"], float))
    area = np.mean(np.array([record["test_accuracy"] for record in run], float))
    return [*last.tolist(), float(worst), float(area)]


def _number(value: Any, *, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    is_number = value is not None and math.isfinite(value)
    return f"{value:.{digits}f}" if is_number else "–"


def _cells(points: np.ndarray, *, bold: Callable[[str], str]) -> list[str]:
    """Formats pairs as "mean±std"; the best, with what ties as printed, is bold."""
    shown = [_number(mean) for mean, _ in points]
    finite = [float(text) for text in shown if text != "–"]
    cells = []
    for text, (_, std) in zip(shown, points, strict=True):
        cell = text if math.isnan(std) else f"{text}±{_number(std)}"
        is_best = len(finite) > 1 and text != "–" and float(text) == max(finite)
        cells.append(bold(cell) if is_best else cell)
    return cells


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown, all but the first to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])


def escape_markdown(text: str) -> str:
    """Text as it is, in a cell of a Markdown table or elsewhere in Markdown."""
    text = re.sub(r"[\\`*\[\]<>|&]", r"\\\g<0>", text)
    # Within a word, as in fisher_nearest, an underscore is one.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return " ".join(text.split())
