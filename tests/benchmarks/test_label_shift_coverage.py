"""Coverage of the intervals of class shares, in the settings that are hardest."""

import json

import numpy as np
import pytest

from benchmarks.label_shift_coverage import facts, rows, shares_of, summary, tables
from fkjax.label_shift import Shares


@pytest.mark.parametrize(
    ("model", "pool", "num_validation", "most_withheld"),
    [
        ("calibrated", "100x", 50, 0.2),
        ("overconfident", "100x", 200, 0.05),
        ("undertrained", "10x", 200, 0.9),
    ],
)
def test_intervals_cover(model, pool, num_validation, most_withheld):
    found = list(rows(10, model, pool, num_validation, 6))
    assert [row["name"] for row in found] == ["BBSE", "EM", "ratio"]
    for row in found:
        assert row["coverage"] >= 0.9 and row["withheld"] <= most_withheld


def test_facts_of_intervals():
    nan = np.nan
    shares = [
        Shares(np.array([0.7, nan]), np.array([0.6, nan]), np.array([0.8, nan])),
        Shares(np.array([0.9, 0.2]), np.array([0.8, 0.1]), np.array([1.0, 0.4])),
    ]
    found = facts(shares, np.array([0.7, 0.3]))
    assert found["coverage"] == round(2 / 3, 3) and found["coverage_rare"] == 1
    assert found["withheld"] == 0.25 and found["width"] == pytest.approx(0.4)
    none = facts([Shares(*np.full((3, 2), nan))], np.array([0.7, 0.3]))
    assert none["coverage"] is None and none["withheld"] == 1


def test_pools_are_as_biased_as_they_say():
    shares = shares_of("10x", 4)
    np.testing.assert_allclose(shares, np.array([10, 10, 1, 1]) / 22)
    one = shares_of("one class 100x", 4)
    np.testing.assert_allclose(one[:3], 100 * one[3])


def test_tables_have_a_cell_for_each_setting():
    records = [
        json.loads(json.dumps(row))
        for size in (10, 12)
        for row in rows(10, "calibrated", "1x", size, 1)
    ]
    (table,) = tables(records)
    records[1] |= {"coverage": 0.5, "coverage_rare": 0.25}
    assert summary(records).startswith("The lowest coverage of 6 cells is 50 % (EM, 10")
    head, _, *lines = table.split("\n\n")[1].splitlines()
    assert head == "| estimate | model | pool | M = 10 | M = 12 |"
    assert [line.count("|") for line in lines] == [6, 6, 6]
    assert "withheld" in lines[0]
