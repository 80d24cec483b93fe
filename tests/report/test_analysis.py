import math

import numpy as np
import pytest

from fkjax.report import analysis, comparison, statistics
from tests.records import grid, record, write_run


@pytest.fixture
def read(tmp_path):
    def read(records, **config):
        write_run(tmp_path / "run", records, **config)
        return comparison.read([tmp_path / "run"])

    return read


def test_a_summary_by_hand(read):
    # a: seed 0 has 0.50, 0.54; seed 1 has 0.51, 0.55.
    found = analysis.analyse(read(grid(["a"], 2, 2)))
    (summary,) = found.summaries
    assert (summary.name, summary.num_seeds, summary.num_labeled) == ("a", 2, 200)
    means = {name: m.mean for name, m in summary.measures.items()}
    assert means == pytest.approx(
        {"test": 54.5, "balanced": 44.5, "worst class": 34.5, "area": 52.5}
    )
    area = summary.measures["area"]
    assert (area.low, area.high) == pytest.approx((52, 53))


def test_curves_have_the_bands_of_their_means(read):
    found = analysis.analyse(read(grid(["a", "b"], 4, 3)))
    assert list(found.curves) == [
        "test_accuracy",
        "balanced_accuracy",
        "worst_class_accuracy",
    ]
    curve = found.curves["worst_class_accuracy"]["b"]
    np.testing.assert_allclose(curve.mean, [0.335, 0.375, 0.415])
    low, high = statistics.mean_interval(curve.accuracy)
    np.testing.assert_array_equal(curve.low, low)
    np.testing.assert_array_equal(curve.high, high)


def test_labels_needed_by_hand(read):
    found = analysis.analyse(read(grid(["a", "b"], 2, 3)), targets=[52.5, 56.5, 99])
    by_name = {(r.name, r.target): r for r in found.reached}
    # The means of a are 50.5, 54.5, 58.5 and of b 52.5, 56.5, 60.5.
    assert by_name["a", 52.5].at == pytest.approx(150)
    assert by_name["a", 56.5].at == pytest.approx(250)
    assert by_name["a", 56.5].by_seed == pytest.approx([262.5, 237.5])
    assert not by_name["a", 56.5].is_at_start
    assert by_name["b", 52.5].at == pytest.approx(100)
    assert by_name["a", 99].at is None and by_name["a", 99].by_seed == [None, None]
    assert by_name["b", 52.5].is_at_start


def test_targets_lie_where_curves_differ():
    assert analysis.default_targets([[50, 65], [60, 94]]) == [65, 75, 90]
    assert analysis.default_targets([[97.2], [97.4]]) == [97]
    assert analysis.default_targets([[math.nan], [71.0]]) == [71]
    assert analysis.default_targets([[math.nan]]) == []


def test_pairs_use_the_seeds_and_labels_that_both_have(read):
    records = grid(["a"], 3, 3) + [
        record("b", seed, r, 0.9, num_labeled=100 * (r + 1))
        for seed in (1, 2, 5)
        for r in range(2)
    ]
    (pair,) = analysis.analyse(read(records)).pairs
    assert (pair.first, pair.second, pair.num_labeled) == ("b", "a", [100, 200])
    final, area = pair.tests["test"], pair.tests["area"]
    assert final.num_pairs == 2
    assert final.mean == pytest.approx(90 - (55 + 56) / 2)
    assert area.mean == pytest.approx(90 - (53 + 54) / 2)


def test_other_budgets_are_compared_where_their_labels_meet(read):
    records = grid(["a"], 2, 4) + [
        record("b", seed, r, 0.9, num_labeled=200 * (r + 1))
        for seed in range(2)
        for r in range(2)
    ]
    (pair,) = analysis.analyse(read(records)).pairs
    assert pair.num_labeled == [200, 400]
    assert pair.tests["test"].mean == pytest.approx(90 - 62.5)
    assert pair.tests["area"].mean == pytest.approx(90 - 58.5)


def test_no_pair_without_a_seed_or_a_number_of_labels(read):
    records = [record("a", 0), record("b", 1), record("c", 0, num_labeled=7)]
    assert analysis.analyse(read(records)).pairs == []


def test_p_values_are_corrected_over_all_pairs(read):
    found = analysis.analyse(read(grid(["a", "b", "c"], 7, 2)))
    assert len(found.pairs) == 3
    for pair in found.pairs:  # all differ by the same in all seeds
        assert pair.tests["area"].p == 2 / 2**7
        assert pair.corrected["area"] == pytest.approx(3 * 2 / 2**7)
        assert pair.tests["test"].wins == 7


def test_costs_by_hand(read):
    some = {"query": 70.0, "update": 60.0}
    records = grid(["a"], 2, 2, peak_memory_mb=some) + grid(["b"], 1, 2)
    for r in records:
        if r["round"] == 0:
            r["seconds"] = r["seconds"] | {"pretraining": 10.0 + r["seed"]}
    records[1]["peak_memory_mb"] = {"pretraining": 50.0, "query": 90.0}
    a, b = analysis.analyse(read(records)).costs
    assert a.phases == {"query": 1.0, "update": 2.0} and a.round == 3.0
    assert a.pretraining == 10.5 and b.peak_memory_mb == {}
    assert a.peak_memory_mb == {"query": 90.0, "update": 60.0, "pretraining": 50.0}


def test_what_is_not_a_number_stays_so(read, recwarn):
    records = grid(["a", "b"], 2, 2)
    records[3]["test_accuracy"] = None
    records[3]["class_accuracy"] = [None] * 3
    found = analysis.analyse(read(records))
    a, b = found.summaries
    assert math.isnan(a.measures["test"].mean) and b.measures["test"].mean > 0
    assert found.pairs[0].tests["test"].num_pairs == 1
    assert not list(recwarn)
