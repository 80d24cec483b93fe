"""The charts of a page: SVG, narrow enough for a phone, in the page's colors.

Text, axes and grid use the page's CSS variables as colors, so they are visible on a
dark page, too. The same numbers give the same bytes.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from fkjax.base import printable
from fkjax.report.analysis import COMPARED, Cost, Pair
from fkjax.report.curves import Curve
from fkjax.report.plots import (
    COLORS,
    MARKERS,
    blank,
    frame_curves,
    literal,
    marker,
    plot_confusion,
    plot_curves,
)
from fkjax.runs.record import Record

_INK, _GRID = "#1b1f24", "#e5e5e5"
_WIDTH = 4.4  # inches of 72 CSS points: a phone hardly needs to scale it

# matplotlib's markers as characters.
_SIGNS = dict(zip(MARKERS, "●■▲◆▼✚✖◀▶⬟", strict=True))
_MOST_OUTLINES = 50  # bars; more are drawn as pixels: ImageNet's would take megabytes
_LONGEST = 18  # characters of a class name shown beside its bars
_RAMP = ("#9ecae1", "#08519c")  # from the first round to the last


def legend(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Returns the name, CSS color and sign of each strategy in the charts."""
    return [
        (name, _css(COLORS[i % len(COLORS)]), _SIGNS[marker(i)])
        for i, name in enumerate(names)
    ]


def learning_curve(curves: Mapping[str, Curve], *, title: str) -> Markup:
    """Draws learning curves with their bands, in percent."""
    with _svg(title, height=3.2) as (figure, made):
        axes = figure.subplots()
        plot_curves(axes, curves)
        frame_curves(axes, curves, num_ticks=8)
        axes.set_ylabel("%")
    return made[0]


def queried_per_class(
    rounds: Sequence[int], counts: np.ndarray, *, top: float, title: str
) -> Markup:
    """Draws a bar for each class, stacked by round from light to dark.

    Args:
        rounds: round numbers. Length R.
        counts: number of queried examples, mean over seeds. Shape [R, C].
        top: upper limit of the axis, the same in all charts to be compared.
        title: text for screen readers.
    """
    import matplotlib.colors

    num_classes = counts.shape[1]
    ramp = matplotlib.colors.LinearSegmentedColormap.from_list("rounds", _RAMP)
    # One outline per round: each bar and the gap after it.
    edges = np.stack([np.arange(num_classes) - 0.4, np.arange(num_classes) + 0.4])
    edges = np.append(edges.T.ravel(), num_classes - 0.4)
    with _svg(title, height=2.6) as (figure, made):
        axes = figure.subplots()
        below = np.zeros(num_classes)
        for position, row in enumerate(counts):
            share = position / max(1, len(rounds) - 1)
            ends = [np.stack([y, below], axis=1).ravel() for y in (below + row, below)]
            bars = axes.stairs(
                ends[0], edges, baseline=ends[1], fill=True, color=ramp(share), lw=0
            )
            bars.set_rasterized(num_classes > _MOST_OUTLINES)
            below = below + row
        _plain_axes(axes, "y")
        axes.set_ylim(0, top * 1.04)
        axes.set_xlim(-0.7, num_classes - 0.3)
        if num_classes <= 20:
            axes.set_xticks(range(num_classes))
        axes.set_xlabel("class")
        axes.set_ylabel("queried examples")
    return made[0]


def confusion(last: Sequence[Record], *, title: str) -> Markup:
    """Draws the confusion matrix summed over the last records of all seeds."""
    with _svg(title, height=_WIDTH) as (figure, made):
        plot_confusion(figure.subplots(), last, width=_WIDTH - 0.6)
    return made[0]


def seconds(costs: Sequence[Cost], *, title: str) -> Markup:
    """Draws a bar for each strategy, stacked by the phases of a round."""
    phases = list(dict.fromkeys(phase for cost in costs for phase in cost.phases))
    rows = np.arange(len(costs))
    with _svg(title, height=1.3 + 0.42 * len(costs)) as (figure, made):
        axes = figure.subplots()
        left = np.zeros(len(costs))
        for index, phase in enumerate(phases):
            width = np.array([cost.phases.get(phase, 0.0) for cost in costs])
            color = COLORS[index % len(COLORS)]
            axes.barh(rows, width, 0.35, left, color=color, label=literal(phase))
            left = left + width
        for row, cost in zip(rows, costs, strict=True):
            axes.text(0, row - 0.27, f" {literal(cost.name)}", va="bottom")
        _plain_axes(axes, "x")
        axes.set_yticks([])
        axes.set_ylim(len(costs) - 0.5, -0.85)
        axes.set_xlabel("seconds per round")
        figure.legend(loc="outside lower left", frameon=False, ncols=4)
    return made[0]


def differences(pairs: Sequence[Pair], measure: str, *, title: str) -> Markup:
    """Draws each pair's mean difference and its interval around a line at zero."""
    assert measure in COMPARED
    with _svg(title, height=0.8 + 0.42 * len(pairs)) as (figure, made):
        axes = figure.subplots()
        axes.axvline(0, color=_GRID, linewidth=3)
        for row, pair in enumerate(pairs):
            test = pair.tests[measure]
            if np.isfinite([test.low, test.high]).all():
                axes.hlines(row, test.low, test.high, color=COLORS[0], linewidth=2)
            axes.plot(test.mean, row, "o", color=COLORS[0], markersize=6)
            text = literal(f"{pair.first} − {pair.second}")
            axes.text(
                0, row - 0.2, text, va="bottom", transform=axes.get_yaxis_transform()
            )
        _plain_axes(axes, "x")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(pairs) - 0.5, -0.9)
        axes.set_xlabel("difference in percentage points")
    return made[0]


class Balance(NamedTuple):
    """The class shares of a set of examples.

    Attributes:
        name: name of the set.
        shares: share of each class. Shape [C].
        interval: lower and upper ends of the shares' intervals, if they are uncertain.
            Shape [2, C].
    """

    name: str
    shares: np.ndarray
    interval: np.ndarray | None = None


def class_balances(
    classes: Sequence[str], balances: Sequence[Balance], *, title: str
) -> Markup:
    """Draws a group of bars for each class, one bar for each balance."""
    rows, width = np.arange(len(classes)), 0.8 / len(balances)
    height = 0.9 + len(classes) * (0.12 + 0.1 * len(balances))
    with _svg(title, height=height) as (figure, made):
        axes = figure.subplots()
        for index, (name, shares, interval) in enumerate(balances):
            at = rows + (index - (len(balances) - 1) / 2) * width
            color = COLORS[index % len(COLORS)]
            axes.barh(at, 100 * shares, 0.85 * width, color=color, label=literal(name))
            if interval is not None:
                axes.hlines(at, *(100 * interval), color=_INK, linewidth=1.2)
        _plain_axes(axes, "x")
        axes.set_yticks(rows, [literal(_short(name)) for name in classes])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(classes) - 0.45, -0.55)
        axes.set_xlim(0)
        axes.set_xlabel("%")
        figure.legend(loc="outside lower left", frameon=False, ncols=1)
    return made[0]


def _short(name: str) -> str:
    name, half = printable(name), _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def _plain_axes(axes: Any, grid: str) -> None:
    axes.grid(axis=grid, color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


@contextlib.contextmanager
def _svg(title: str, *, height: float) -> Iterator[tuple[Any, list[Markup]]]:
    """Yields an empty figure and a list that receives the figure as an SVG element.

    Args:
        title: text for screen readers; also the salt of the identifiers that matplotlib
            gives to parts of the figure, so that they differ between figures.
        height: height of the figure, in inches.
    """
    made: list[Markup] = []
    keys = "text_color axes_labelcolor axes_edgecolor xtick_color ytick_color".split()
    settings: dict[str, Any] = dict.fromkeys(keys, _INK)
    settings |= {
        "font_size": 9,
        "image_interpolation": "none",
        "svg_fonttype": "none",
        "svg_hashsalt": title,
    }
    with blank((_WIDTH, height), **settings) as figure:
        yield figure, made
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(
            buffer, format="svg", dpi=200, transparent=True, metadata=nothing
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # identifiers repeat across figures
    svg = re.sub(r'style="[^"]*"', lambda style: _of_the_page(style[0]), svg)
    label = Markup('<svg role="img" aria-label="{}" ').format(title)
    made.append(Markup(svg.replace("<svg ", label, 1)))


def _of_the_page(style: str) -> str:
    """Replaces the colors and fonts of a style attribute by those of the page."""
    style = re.sub(r"#[0-9a-f]{6}\b", lambda color: _css(color[0]), style)
    style = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", style)
    return re.sub(r"font-family: [^;\"]*", "font-family: inherit", style)


def _css(color: str) -> str:
    """Returns the page's CSS variable for a color of the charts; others unchanged."""
    if color == _INK:
        return "currentColor"
    if color == _GRID:
        return "var(--grid)"
    upper = color.upper()
    return f"var(--c{COLORS.index(upper)})" if upper in COLORS else color
