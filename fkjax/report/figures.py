"""Figures of a run as PNG files: learning curves and confusion matrices."""

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fkjax.base import UserError
from fkjax.files.writing import replace_file
from fkjax.report.curves import Reference, group_records, learning_curves, shared_rounds
from fkjax.report.plots import (
    GRAYS,
    blank,
    frame_curves,
    literal,
    plot_confusion,
    plot_curves,
)
from fkjax.runs.record import Record


def draw_learning_curve(
    records: Iterable[Record],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    reference: Reference | None = None,
) -> None:
    """Draws test accuracy over the number of labeled examples to a PNG file.

    Each line is the mean over seeds, its band spans the lowest to the highest seed. An
    open marker shows a round that only some of the seeds have reached.

    Args:
        records: records of one dataset.
        path: file to write.
        title: heading of the figure.
        reference: published curves, drawn dashed in the color of the strategy of the
            same name, or in gray; more than three are drawn in a separate panel.
    """
    curves, reference = learning_curves(records), reference or {}
    _require_some(curves, path)
    seeds = [len(curve.accuracy) for curve in curves.values()]
    num_seeds = max(seeds)
    is_partial = any((c.num_seeds < len(c.accuracy)).any() for c in curves.values())
    is_single = all(len(curve.num_labeled) == 1 for curve in curves.values())
    is_beside = len(reference) > 3
    with _file(path, size=(12, 5) if is_beside else (8, 5)) as figure:
        (panels,) = figure.subplots(1, 1 + is_beside, sharey=True, squeeze=False)
        lines = plot_curves(panels[0], curves)
        colors = {name: line.get_color() for name, line in lines.items()}
        handles = [(line.get_ydata()[-1], name, line) for name, line in lines.items()]
        for index, (name, (x, percent)) in enumerate(reference.items()):
            color = colors.get(name, GRAYS[index % len(GRAYS)])
            (line,) = panels[-1].plot(x, percent, "--", color=color, linewidth=1.4)
            if name not in colors or not is_beside:
                handles.append((percent[-1], f"{name} (reference)", line))
        handles.sort(key=lambda handle: -handle[0])  # order of the lines' ends
        figure.legend(
            [line for _, _, line in handles],
            [literal(name) for _, name, _ in handles],
            loc="outside right upper",
            frameon=False,
        )
        kind = "bar" if is_single else "band"
        fewest = f"{min(seeds)} to " if min(seeds) < num_seeds else ""
        caption = f"Mean of {fewest}{num_seeds} seeds; {kind}: lowest to highest seed."
        caption = caption if num_seeds > 1 else "One seed."
        caption += " Open marker: some seeds are unfinished." if is_partial else ""
        figure.supxlabel(caption, fontsize="small", color="#555555")
        panels[0].set_title(literal(title), loc="left", fontweight="bold")
        panels[0].set_ylabel("test accuracy (%)")
        if is_beside:
            panels[1].set_title("published curves", loc="left", fontweight="bold")
        for axes in panels:
            frame_curves(
                axes,
                curves,
                num_ticks=8 if is_beside else 11,
                is_alone=not reference,
            )


def draw_confusion(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Draws the confusion matrices after the last round to a PNG file.

    Each strategy has a panel with its confusion matrix, summed over seeds at the last
    round that all have reached, each row scaled to 100 %.

    Args:
        records: records of one dataset.
        path: file to write.
    """
    panels = {
        strategy: [run[shared[-1]] for run in seeds.values()]
        for strategy, seeds in group_records(records).items()
        if (shared := shared_rounds(seeds))
    }
    _require_some(panels, path)
    classes = max(len(last[0]["confusion"]) for last in panels.values())
    most = 3 if classes <= 10 and len(panels) == 3 else 2
    num_columns = 1 if 12 < classes <= 20 else min(most, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    width = {1: 6.5, 2: 4, 3: 3.8}[num_columns]
    size = (width * num_columns, 1.06 * width * num_rows + 0.35 * (1 + num_columns))
    with _file(path, size=size) as figure:
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        image = None
        for axes, (strategy, last) in zip(grid.flat, panels.items(), strict=False):
            image = plot_confusion(axes, last, width=width)
            labels = f"{last[0]['num_labeled']:,} labels"
            axes.set_title(
                f"{literal(strategy)}\n{labels}, {axes.get_title()}", fontsize="medium"
            )
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        assert image is not None
        ticks = [0, 1, 5, 10, 25, 50, 75, 100]
        place = {"location": "bottom", "aspect": 50, "pad": 0.15 / size[1]}
        bar = figure.colorbar(image, ax=grid, ticks=ticks, **place)
        note = " (no number: 0.5 or less)" if classes <= 20 else ""
        bar.set_label(f"% of the true class{note}")


@contextlib.contextmanager
def _file(path: str | os.PathLike[str], *, size: tuple[float, float]) -> Iterator[Any]:
    """Yields an empty figure and writes it to a PNG file.

    The file does not record the version of matplotlib, so its bytes are reproducible.
    """
    buffer = io.BytesIO()
    with blank(size) as figure:
        yield figure
        figure.savefig(buffer, format="png", metadata={"Software": None})
    replace_file(Path(path), buffer.getvalue())


def _require_some(groups: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    if not groups:
        raise UserError(
            f"a figure needs at least one finished round, got none to draw in {path}: "
            "let the run finish a round first"
        )
