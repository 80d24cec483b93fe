"""Two drawings of a run: its learning curves and its confusion matrices."""

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.report.tables import (
    Curve,
    Reference,
    group_records,
    learning_curves,
    shared_rounds,
)
from fkjax.runs.folder import Record, replace_file

# Okabe and Ito's colours without the yellow, then three of Tol's "muted".
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)
MARKERS = "os^DvPX<>p"
_GRAYS = ("#555555", "#8a8a8a", "#b0b0b0")


def draw_learning_curve(
    records: Iterable[Record],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    reference: Reference | None = None,
) -> None:
    """Draws test accuracy over labelled examples, to a PNG file.

    A line is the mean over seeds, its band reaches from the lowest to the highest
    seed; an open marker is a round that only some of the seeds have reached.

    Args:
        records: records of one dataset.
        path: the file to write.
        title: the heading.
        reference: published curves, drawn dashed in the colour of the strategy of the
            same name, or in gray; more than three in a panel of their own.
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
            color = colors.get(name, _GRAYS[index % len(_GRAYS)])
            (line,) = panels[-1].plot(x, percent, "--", color=color, linewidth=1.4)
            if name not in colors or not is_beside:
                handles.append((percent[-1], f"{name} (reference)", line))
        handles.sort(key=lambda handle: -handle[0])  # as the lines end, top to bottom
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
        caption += " Open marker: not all seeds are there yet." if is_partial else ""
        figure.supxlabel(caption, fontsize="small", color="#555555")
        panels[0].set_title(literal(title), loc="left", fontweight="bold")
        panels[0].set_ylabel("test accuracy (%)")
        if is_beside:
            panels[1].set_title("as published", loc="left", fontweight="bold")
        for axes in panels:
            frame_curves(
                axes,
                curves,
                num_ticks=8 if is_beside else 11,
                is_alone=not reference,
            )


def draw_confusion(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Draws what each true class is taken for after the last round, to a PNG file.

    One panel for each strategy: the confusion matrix summed over seeds at the last
    round that all have reached, each row scaled to 100 %.

    Args:
        records: records of one dataset.
        path: the file to write.
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


def plot_curves(axes: Any, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Plots each curve's mean, and its band from `low` to `high`, in percent.

    Args:
        axes: of matplotlib.
        curves: of each strategy; all over the same numbers of labels where they have
            but one round.

    Returns:
        The line of each strategy.
    """
    ticks = _ticks(curves)
    # A single round: side by side, or the bars would hide each other.
    dodge = 0.02 * ticks[0] if len(ticks) == 1 else 0
    has_bands = any(len(curve.accuracy) > 1 for curve in curves.values())
    lines = {}
    for index, (strategy, curve) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        x = curve.num_labeled + dodge * (index - (len(curves) - 1) / 2)
        y = 100 * curve.mean
        band = 100 * curve.low, 100 * curve.high
        if len(x) > 1 and has_bands:
            alpha = 0.18 if len(curves) <= 4 else 0.1
            axes.fill_between(x, *band, color=color, alpha=alpha, linewidth=0)
        elif has_bands:
            axes.vlines(x, *band, color=color, alpha=0.5)
        style: dict[str, Any] = {"color": color, "markersize": 5}
        style["marker"] = marker(index)
        (lines[strategy],) = axes.plot(x, y, **style, linewidth=1.8)
        some = curve.num_seeds < len(curve.accuracy)
        axes.plot(x[some], y[some], **style, ls="", mfc="white")
    return lines


def marker(index: int) -> str:
    """The marker of a strategy: another where the colours begin anew."""
    return MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def frame_curves(
    axes: Any, curves: Mapping[str, Curve], *, num_ticks: int, is_alone: bool = True
) -> None:
    """Sets the ticks, the limits and the grid of plotted curves.

    Args:
        axes: where they are.
        curves: as they were plotted.
        num_ticks: how many numbers of labels have room.
        is_alone: whether nothing but the curves is plotted there.
    """
    ticks = _ticks(curves)
    axes.set_xlabel("labelled examples")
    if len(ticks) == 1 or np.diff(ticks).min() >= np.ptp(ticks) / num_ticks:
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if len(ticks) == 1 and is_alone:
        axes.set_xlim(ticks[0] * 0.8, ticks[0] * 1.2)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_confusion(axes: Any, last: Sequence[Record], *, width: float) -> Any:
    """Plots confusion matrices summed over seeds, each row scaled to 100 %.

    Args:
        axes: of matplotlib; its title becomes the seeds and the accuracy.
        last: a record of each seed.
        width: of the axes, in inches.

    Returns:
        The image, for a colour bar.
    """
    import matplotlib.colors

    # The square root lets a confusion of a few percent be seen beside the diagonal.
    norm = matplotlib.colors.PowerNorm(0.5, 0, 100)
    total = np.sum([record["confusion"] for record in last], axis=0)
    with np.errstate(invalid="ignore"):
        percent = 100 * total / total.sum(axis=1, keepdims=True)
    accuracy = 100 * total.trace() / total.sum()
    image = axes.imshow(percent, cmap="Blues", norm=norm)
    axes.set_facecolor("#eeeeee")
    num_seeds = f"{len(last)} seed{'s' if len(last) > 1 else ''}"
    axes.set_title(f"{num_seeds}, {accuracy:.1f} % right", fontsize="medium")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    classes = len(total)
    if classes > 20:
        return image
    fontsize = min(11, 72 * 0.8 * width / classes * 0.4)
    for name in ("x", "y"):
        axes.tick_params(name, labelsize=min(10, fontsize + 1.5), length=0)
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    style: dict[str, Any] = {"ha": "center", "va": "center"}
    for (row, column), value in np.ndenumerate(percent):
        if value > 0.5:
            color = "white" if value > 35 else "black"
            text = f"{value:.0f}"
            axes.text(column, row, text, size=fontsize, color=color, **style)
    return image


@contextlib.contextmanager
def blank(size: tuple[float, float], **settings: Any) -> Iterator[Any]:
    """Gives an empty figure in matplotlib's own style.

    Args:
        size: width and height, in inches.
        **settings: of matplotlib, where they differ from its own, such as svg_hashsalt.
    """
    import matplotlib
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    own: Any = {key.replace("_", ".", 1): value for key, value in settings.items()}
    with matplotlib.style.context("default"), matplotlib.rc_context(own):
        layout: Any = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        yield Figure(figsize=size, dpi=150, layout=layout)


@contextlib.contextmanager
def _file(path: str | os.PathLike[str], *, size: tuple[float, float]) -> Iterator[Any]:
    """Gives an empty figure, and writes what is drawn.

    The PNG file bears no trace of the library that made it, so it replays.
    """
    buffer = io.BytesIO()
    with blank(size) as figure:
        yield figure
        figure.savefig(buffer, format="png", metadata={"Software": None})
    replace_file(Path(path), buffer.getvalue())


def _ticks(curves: Mapping[str, Curve]) -> np.ndarray:
    return np.unique(np.concatenate([c.num_labeled for c in curves.values()]))


def literal(text: str) -> str:
    """Keeps matplotlib from reading a dollar sign as mathematics."""
    return text.replace("$", r"\$")


def _require_some(groups: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    if not groups:
        raise UserError(
            f"A figure needs at least one round, but there is none to draw in {path}: "
            "let the run finish a round first."
        )
