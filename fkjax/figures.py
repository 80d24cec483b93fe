"""Two drawings of a run: its learning curves and its confusion matrices."""

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.reporting import Record, replace_file
from fkjax.tables import Reference, group_records, learning_curves, shared_rounds

# Okabe and Ito's colours without the yellow, then three of Tol's "muted".
_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)
_MARKERS = "os^DvPX<>p"
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
    ticks = np.unique(np.concatenate([c.num_labeled for c in curves.values()]))
    # A single round: side by side, or the bars would hide each other.
    dodge = 0.02 * ticks[0] if len(ticks) == 1 else 0
    is_beside = len(reference) > 3
    with _figure(path, size=(12, 5) if is_beside else (8, 5)) as figure:
        (panels,) = figure.subplots(1, 1 + is_beside, sharey=True, squeeze=False)
        axes = panels[0]
        handles, colors = [], {}
        for index, (strategy, curve) in enumerate(curves.items()):
            color = colors[strategy] = _COLORS[index % len(_COLORS)]
            x = curve.num_labeled + dodge * (index - (len(curves) - 1) / 2)
            y = 100 * curve.mean
            band = 100 * curve.low, 100 * curve.high
            if len(x) > 1 and num_seeds > 1:
                alpha = 0.18 if len(curves) <= 4 else 0.1
                axes.fill_between(x, *band, color=color, alpha=alpha, linewidth=0)
            elif num_seeds > 1:
                axes.vlines(x, *band, color=color, alpha=0.5)
            style: dict[str, Any] = {"color": color, "markersize": 5}
            style["marker"] = _MARKERS[index % len(_MARKERS)]
            (line,) = axes.plot(x, y, **style, linewidth=1.8)
            some = curve.num_seeds < len(curve.accuracy)
            axes.plot(x[some], y[some], **style, ls="", mfc="white")
            handles.append((y[-1], strategy, line))
        for index, (name, (x, percent)) in enumerate(reference.items()):
            color = colors.get(name, _GRAYS[index % len(_GRAYS)])
            (line,) = panels[-1].plot(x, percent, "--", color=color, linewidth=1.4)
            if name not in colors or not is_beside:
                handles.append((percent[-1], f"{name} (reference)", line))
        handles.sort(key=lambda handle: -handle[0])  # as the lines end, top to bottom
        figure.legend(
            [line for _, _, line in handles],
            [_literal(name) for _, name, _ in handles],
            loc="outside right upper",
            frameon=False,
        )
        kind = "bar" if dodge else "band"
        fewest = f"{min(seeds)} to " if min(seeds) < num_seeds else ""
        caption = f"Mean of {fewest}{num_seeds} seeds; {kind}: lowest to highest seed."
        caption = caption if num_seeds > 1 else "One seed."
        caption += " Open marker: not all seeds are there yet." if is_partial else ""
        figure.supxlabel(caption, fontsize="small", color="#555555")
        axes.set_title(_literal(title), loc="left", fontweight="bold")
        axes.set_ylabel("test accuracy (%)")
        if is_beside:
            panels[1].set_title("as published", loc="left", fontweight="bold")
        num_ticks = 8 if is_beside else 11
        for axes in panels:
            axes.set_xlabel("labelled examples")
            if len(ticks) == 1 or np.diff(ticks).min() >= np.ptp(ticks) / num_ticks:
                axes.set_xticks(ticks)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            if dodge and not reference:
                axes.set_xlim(ticks[0] * 0.8, ticks[0] * 1.2)
            axes.set_ylim(top=min(axes.get_ylim()[1], 101))
            axes.grid(color="#e5e5e5")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)


def draw_confusion(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Draws what each true class is taken for after the last round, to a PNG file.

    One panel for each strategy: the confusion matrix summed over seeds at the last
    round that all have reached, each row scaled to 100 %.

    Args:
        records: records of one dataset.
        path: the file to write.
    """
    import matplotlib.colors

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
    # The square root lets a confusion of a few percent be seen beside the diagonal.
    norm = matplotlib.colors.PowerNorm(0.5, 0, 100)
    size = (width * num_columns, 1.06 * width * num_rows + 0.35 * (1 + num_columns))
    with _figure(path, size=size) as figure:
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        image = None
        for axes, (strategy, last) in zip(grid.flat, panels.items(), strict=False):
            total = np.sum([record["confusion"] for record in last], axis=0)
            with np.errstate(invalid="ignore"):
                percent = 100 * total / total.sum(axis=1, keepdims=True)
            accuracy = 100 * total.trace() / total.sum()
            image = axes.imshow(percent, cmap="Blues", norm=norm)
            axes.set_facecolor("#eeeeee")
            num_seeds = f"{len(last)} seed{'s' if len(last) > 1 else ''}"
            labels = f"{last[0]['num_labeled']:,} labels"
            below = f"{labels}, {num_seeds}, {accuracy:.1f} % right"
            axes.set_title(f"{_literal(strategy)}\n{below}", fontsize="medium")
            axes.set_xlabel("predicted class")
            axes.set_ylabel("true class")
            if classes > 20:
                continue
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
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        assert image is not None
        ticks = [0, 1, 5, 10, 25, 50, 75, 100]
        place = {"location": "bottom", "aspect": 50, "pad": 0.15 / size[1]}
        bar = figure.colorbar(image, ax=grid, ticks=ticks, **place)
        note = " (no number: 0.5 or less)" if classes <= 20 else ""
        bar.set_label(f"% of the true class{note}")


@contextlib.contextmanager
def _figure(
    path: str | os.PathLike[str], *, size: tuple[float, float]
) -> Iterator[Any]:
    """Gives an empty figure in matplotlib's own style, and writes what is drawn.

    The PNG file bears no trace of the library that made it, so it replays.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    buffer = io.BytesIO()
    with matplotlib.style.context("default"):
        layout: Any = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=size, dpi=150, layout=layout)
        yield figure
        figure.savefig(buffer, format="png", metadata={"Software": None})
    replace_file(Path(path), buffer.getvalue())


def _literal(text: str) -> str:
    """Keeps matplotlib from reading a dollar sign as mathematics."""
    return text.replace("$", r"\$")


def _require_some(groups: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    if not groups:
        raise UserError(
            f"A figure needs at least one round, but there is none to draw in {path}: "
            "let the run finish a round first."
        )
