import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from fkjax.report import charts, statistics
from fkjax.report import curves as curves_module
from fkjax.report.analysis import Cost, Pair
from fkjax.report.plots import COLORS
from tests.records import grid, record

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<b>"$x$" & </svg> #0072b2'


def texts(svg):
    """Returns all text of a well-formed SVG image."""
    tree = ElementTree.fromstring(str(svg))
    assert tree.tag == SVG + "svg" and tree.get("role") == "img"
    return ["".join(node.itertext()) for node in tree.iter(SVG + "text")]


def test_a_learning_curve_is_drawn_in_the_page_s_colours():
    curves = curves_module.learning_curves(grid(["a", "b"], 3, 4))
    svg = charts.learning_curve(curves, title=HOSTILE)
    assert {"100", "400", "labeled examples"} <= set(texts(svg))
    assert 'aria-label="&lt;b&gt;&#34;$x$&#34; &amp; &lt;/svg&gt; #0072b2"' in svg
    for variable in ("--c0", "--c1", "--grid"):
        assert f"var({variable})" in svg
    assert "currentColor" in svg and "DejaVu" not in svg
    assert "<style" not in svg and '<g id="' not in svg
    assert svg == charts.learning_curve(curves, title=HOSTILE)
    assert "date" not in svg.lower() and "matplotlib" not in svg.lower()


def test_names_within_two_charts_do_not_meet():
    curves = curves_module.learning_curves(grid(["a"], 2, 3))
    one, two = (
        set(re.findall(r'\bid="([^"]*)"', charts.learning_curve(curves, title=title)))
        for title in ("one", "two")
    )
    assert one and not one & two


def test_the_legend_tells_twenty_strategies_apart():
    legend = charts.legend([f"s{i}" for i in range(20)])
    assert len({(color, sign) for _, color, sign in legend}) == 20
    assert legend[0] == ("s0", "var(--c0)", "●") and len(COLORS) == 10


def test_bars_have_the_heights_of_their_counts():
    counts = np.zeros((2, 3))
    counts[:, 1] = 3, 5
    svg = charts.queried_per_class([1, 2], counts, top=10, title="x")
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: #[0-9a-f]{6}"', svg)
    heights = []
    for path in paths[-2:]:
        y = [float(b) for _, b in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path)]
        heights.append(max(y) - min(y))
    assert heights[0] > 0 and heights[1] == pytest.approx(heights[0] * 8 / 3, rel=1e-3)
    assert {"0", "1", "2"} <= set(texts(svg))


def test_a_thousand_classes_stay_small():
    counts = np.random.default_rng(0).uniform(size=(10, 1000))
    svg = charts.queried_per_class(range(10), counts, top=10, title="x")
    assert len(svg) < 200_000 and "<image" in svg and "999" not in texts(svg)


def test_a_confusion_matrix_shows_its_percentages():
    last = [record(confusion=[[9, 1, 0], [0, 10, 0], [5, 0, 5]])] * 2
    shown = texts(charts.confusion(last, title="x"))
    assert {"90", "10", "100", "50"} <= set(shown)
    assert "2 seeds, 80.0 % correct" in shown


def test_costs_and_differences_name_who_they_are_of():
    costs = [Cost(HOSTILE, {"query $": 1.0}, 1, 0, {}), Cost("b", {}, 0, 0, {})]
    shown = " ".join(texts(charts.seconds(costs, title="x")))
    assert HOSTILE in shown and "query $" in shown
    test = statistics.paired([60, 62, 65], [50, 51, 52])
    lone = statistics.paired([1], [2])
    pairs = [
        Pair(HOSTILE, "b", [1], {"area": test}, {}),
        Pair("c", "b", [1], {"area": lone}, {}),
    ]
    shown = texts(charts.differences(pairs, "area", title="x"))
    assert f"{HOSTILE} − b" in shown and "c − b" in shown


def test_class_balances_have_bars_and_intervals_of_their_shares():
    names = ["ant", HOSTILE, "c" * 50]
    shares, interval = np.array([0.1, 0.2, 0.4]), np.array([[0.0] * 3, [0.5] * 3])
    balances = [
        charts.Balance("mine", shares), charts.Balance("$all$", shares[::-1], interval)
    ]  # fmt: skip
    svg = charts.class_balances(names, balances, title="x")
    assert {"ant", "mine", "$all$", "c" * 8 + "…" + "c" * 9} <= set(texts(svg))
    widths = {}
    for path, color in re.findall(r'<path d="([^"]*)"[^>]*fill: (var[^;"]*)', svg):
        x = [float(a) for a, _ in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path)]
        widths.setdefault(color, []).append(max(x) - min(x))
    for color, expected in (("var(--c0)", shares), ("var(--c1)", shares[::-1])):
        found = np.array(widths[color][:3])
        np.testing.assert_allclose(found / found.sum(), expected / 0.7, rtol=1e-3)
    assert svg == charts.class_balances(names, balances, title="x")
