"""Tables of records: means and standard deviations over the seeds of each strategy."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.markup
import rich.table

from fkjax.report import protocol
from fkjax.report.curves import (
    Reference,
    final_measures,
    group_records,
    learning_curves,
    round_seconds,
    shared_rounds,
)
from fkjax.runs.record import Record


def final_table(
    records: Iterable[Record], *, rounds: Collection[int] | None = None
) -> rich.table.Table:
    """Builds a table of the final results of each strategy.

    Each strategy is measured at the last round that all its seeds have reached. The
    area is the mean test accuracy over the rounds. The best value of a column is bold
    if all strategies, two or more, used the same number of labels.

    Args:
        records: records of one dataset.
        rounds: rounds to use; all if None.

    Returns:
        A table with a row for each strategy and cells "mean±sample standard deviation
        over seeds".
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


def correction_table(records: Sequence[Record]) -> rich.table.Table | None:
    """Builds a table of the prior correction of each strategy after its last round.

    Args:
        records: records of one dataset.

    Returns:
        The table; None if no strategy trains on the validation set or corrects
        predictions.
    """
    rows = protocol.corrections(protocol.last_records(records))
    if not rows:
        return None
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.caption = protocol.EXPLANATION
    for index, column in enumerate(protocol.HEADER):
        table.add_column(column, justify="right" if index > 1 else "left")
    for strategy, *cells in rows:
        table.add_row(rich.markup.escape(strategy), *cells)
    return table


def labeling_table(records: Sequence[Record]) -> rich.table.Table:
    """Builds a table of the rounds of a labeling session, with accuracies in percent.

    Args:
        records: records of `fkjax.labeling`, in order of rounds.
    """
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False)
    columns = ["round", "labels", "can't tell", "validation accuracy"]
    has_test = any(record["test_accuracy"] is not None for record in records)
    columns += ["test accuracy"] if has_test else []
    for column in columns:
        table.add_column(column, justify="right")
    if any(record.get("validation_role") == "train" for record in records):
        table.caption = (
            "The model is trained on the validation set, each image of which is "
            "predicted here by a model that was trained without it."
        )
    for record in records:
        accuracies = [record["validation_accuracy"]]
        accuracies += [record["test_accuracy"]] if has_test else []
        counts = [record[k] for k in ("round", "num_labeled", "num_cannot_tell")]
        table.add_row(*map(str, counts), *(_number(100 * a) for a in accuracies))
    return table


def markdown_table(
    records: Iterable[Record], reference: Reference | None = None
) -> str:
    """Writes the final table and the learning curves as Markdown tables.

    The prior correction has a table of its own between them, if there is one.

    Args:
        records: records of one dataset.
        reference: published curves, shown beside those of the run.

    Returns:
        Markdown that ends in a newline.
    """
    records = list(records)
    bold = "**{}**".format
    final = _summary(records, None, bold=bold, escape=escape_markdown)
    parts = [markdown(*final), markdown_corrections(protocol.last_records(records))]
    parts.append(markdown_curves(records, reference))
    return "\n".join(part for part in parts if part)


def markdown_corrections(last: Mapping[str, Sequence[Record]]) -> str:
    """Writes the prior correction of each strategy as a Markdown table.

    Args:
        last: records of each seed after the last round, by strategy.

    Returns:
        Markdown that ends in a newline; empty if no strategy trains on the validation
        set or corrects predictions.
    """
    rows = protocol.corrections(last)
    if not rows:
        return ""
    return markdown(protocol.HEADER, [[escape_markdown(x), *xs] for x, *xs in rows])


def markdown_curves(
    records: Iterable[Record], reference: Reference | None = None
) -> str:
    """Writes the learning curves as a Markdown table, a row for each number of labels.

    Args:
        records: records of one dataset.
        reference: published curves, shown beside those of the run.

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


def _summary(
    records: Iterable[Record],
    rounds: Collection[int] | None,
    *,
    bold: Callable[[str], str],
    escape: Callable[[str], str],
) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of the final table."""
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


def _number(value: Any, *, digits: int = 2) -> str:
    """Formats a number; a missing one becomes a dash."""
    is_number = value is not None and math.isfinite(value)
    return f"{value:.{digits}f}" if is_number else "–"


def _cells(points: np.ndarray, *, bold: Callable[[str], str]) -> list[str]:
    """Formats pairs as "mean±std"; the best, and what prints equal to it, is bold."""
    shown = [_number(mean) for mean, _ in points]
    finite = [float(text) for text in shown if text != "–"]
    cells = []
    for text, (_, std) in zip(shown, points, strict=True):
        cell = text if math.isnan(std) else f"{text}±{_number(std)}"
        is_best = len(finite) > 1 and text != "–" and float(text) == max(finite)
        cells.append(bold(cell) if is_best else cell)
    return cells


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a Markdown table of Markdown cells, right-aligned except for the first."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])


def escape_markdown(text: str) -> str:
    """Escapes text for Markdown, including the cells of a table."""
    text = re.sub(r"[\\`*\[\]<>|&]", r"\\\g<0>", text)
    # An underscore within a word, as in fisher_nearest, needs no escape.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return " ".join(text.split())
