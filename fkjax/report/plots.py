"""Panels of a figure: learning curves and confusion matrices."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fkjax.report.curves import Curve
from fkjax.runs.record import Record

# Okabe and Ito's colors without yellow, then three of Tol's "muted" colors.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)
MARKERS = "os^DvPX<>p"
GRAYS = ("#555555", "#8a8a8a", "#b0b0b0")


def plot_curves(axes: Any, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Plots the mean of each curve and its band from `low` to `high`, in percent.

    Args:
        axes: matplotlib axes to plot in.
        curves: learning curve of each strategy. If they have a single round, it must
            have the same number of labels in all.

    Returns:
        The matplotlib line of each strategy.
    """
    ticks = _ticks(curves)
    # With a single round, bars are put side by side so they do not hide each other.
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
    """Returns the marker of a strategy, which changes when the colors repeat."""
    return MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def frame_curves(
    axes: Any, curves: Mapping[str, Curve], *, num_ticks: int, is_alone: bool = True
) -> None:
    """Sets the ticks, the limits and the grid of plotted curves.

    Args:
        axes: matplotlib axes of the curves.
        curves: learning curves plotted in them.
        num_ticks: number of ticks that the horizontal axis has room for.
        is_alone: whether only the curves are plotted in these axes.
    """
    ticks = _ticks(curves)
    axes.set_xlabel("labeled examples")
    if len(ticks) == 1 or np.diff(ticks).min() >= np.ptp(ticks) / num_ticks:
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if len(ticks) == 1 and is_alone:
        labels = ticks[0]
        axes.set_xlim(*(labels * 0.8, labels * 1.2) if labels else (-1, 1))
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_confusion(axes: Any, last: Sequence[Record], *, width: float) -> Any:
    """Plots the confusion matrix summed over seeds, each row scaled to 100 %.

    Args:
        axes: matplotlib axes to plot in; their title is set to the number of seeds and
            the accuracy.
        last: one record of each seed.
        width: width of the axes, in inches.

    Returns:
        The matplotlib image, for a color bar.
    """
    import matplotlib.colors

    # The square root makes confusions of a few percent visible beside the diagonal.
    norm = matplotlib.colors.PowerNorm(0.5, 0, 100)
    total = np.sum([record["confusion"] for record in last], axis=0)
    with np.errstate(invalid="ignore"):
        percent = 100 * total / total.sum(axis=1, keepdims=True)
    accuracy = 100 * total.trace() / total.sum()
    image = axes.imshow(percent, cmap="Blues", norm=norm)
    axes.set_facecolor("#eeeeee")
    num_seeds = f"{len(last)} seed{'s' if len(last) > 1 else ''}"
    axes.set_title(f"{num_seeds}, {accuracy:.1f} % correct", fontsize="medium")
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
    """Yields an empty figure in matplotlib's default style.

    Args:
        size: width and height, in inches.
        **settings: matplotlib settings to change, with the first dot of each name
            replaced by an underscore, such as svg_hashsalt.
    """
    import matplotlib
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    own: Any = {key.replace("_", ".", 1): value for key, value in settings.items()}
    with matplotlib.style.context("default"), matplotlib.rc_context(own):
        layout: Any = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        yield Figure(figsize=size, dpi=150, layout=layout)


def _ticks(curves: Mapping[str, Curve]) -> np.ndarray:
    return np.unique(np.concatenate([c.num_labeled for c in curves.values()]))


def literal(text: str) -> str:
    """Escapes dollar signs, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
