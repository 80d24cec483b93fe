import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fkjax.report import statistics


def test_the_interval_is_that_of_all_resamples():
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
    low, high = statistics.mean_interval(values, level=0.8)
    assert low == pytest.approx(np.quantile(means, 0.1, method="higher"))
    assert high == pytest.approx(np.quantile(means, 0.9, method="lower"))


def test_the_interval_nears_the_normal_one_and_replays():
    values = np.random.default_rng(1).normal(size=(400, 2))
    low, high = statistics.mean_interval(values)
    half = 1.96 * values.std(axis=0) / 20
    np.testing.assert_allclose(low, values.mean(axis=0) - half, atol=0.01)
    np.testing.assert_allclose(high, values.mean(axis=0) + half, atol=0.01)
    again = statistics.mean_interval(values)
    np.testing.assert_array_equal(np.stack(again), np.stack([low, high]))
    one = statistics.mean_interval(values[:, 1])
    assert one == pytest.approx((low[1], high[1]))  # columns share their resamples


def test_intervals_of_hardly_anything(recwarn):
    for few in (np.empty((0, 3)), np.ones((1, 3))):
        assert np.isnan(statistics.mean_interval(few)).all()
        assert np.shape(statistics.mean_interval(few)) == (2, 3)
    low, high = statistics.mean_interval([0.1, 0.1, 0.1])
    assert low == high == 0.1
    holed = [[0.1, math.nan], [0.2, 0.3]]
    low, high = statistics.mean_interval(holed)
    assert (low[0], high[0]) == pytest.approx((0.1, 0.2))
    assert np.isnan([low[1], high[1]]).all()
    assert not list(recwarn)


def test_a_paired_comparison_by_hand():
    # Differences 0.1, 0.2, 0.3, -0.05, 0: positive ranks 2, 3, 4, negative rank 1.
    first = [0.6, 0.7, 0.8, 0.45, 0.5]
    found = statistics.paired(first, [0.5] * 5)
    assert (found.wins, found.ties, found.losses, found.num_pairs) == (3, 1, 1, 5)
    assert found.mean == pytest.approx(0.11)
    assert found.low < 0.11 < found.high
    assert found.p == 2 * 2 / 2**4  # W- is 1 or less for 2 of the 16 signs
    assert found.smallest_p == 2 / 2**4
    back = statistics.paired([0.5] * 5, first)
    assert (back.p, back.wins, back.losses) == (found.p, 1, 3)
    assert (back.mean, back.low, back.high) == pytest.approx(
        (-found.mean, -found.high, -found.low), abs=0.02
    )


@pytest.mark.parametrize("num", [2, 5, 9, 14, 20])
def test_without_ties_the_test_is_the_exact_one(num):
    difference = np.random.default_rng(num).normal(0.5, size=num)
    exact = stats.wilcoxon(difference, method="exact").pvalue
    assert statistics.paired(difference, np.zeros(num)).p == pytest.approx(exact)


def test_tied_differences_are_enumerated():
    difference = np.array([0.1, 0.1, 0.1, -0.1, 0.2, 0.2])
    ranks = stats.rankdata(np.abs(difference))
    signs = np.array(list(itertools.product([0, 1], repeat=6)))
    sums = signs @ ranks
    seen = ranks[difference > 0].sum()
    p = 2 * min((sums >= seen).mean(), (sums <= seen).mean())
    # Differences of rounding errors count as ties.
    assert statistics.paired(difference + 0.7, [0.7] * 6).p == pytest.approx(p)


def test_pairs_that_say_nothing():
    same = statistics.paired([0.5, 0.5], [0.5, 0.5])
    assert (same.p, same.ties, same.mean, same.smallest_p) == (1, 2, 0, 1)
    none = statistics.paired([math.nan], [0.5])
    assert (none.num_pairs, none.p) == (0, 1) and math.isnan(none.mean)
    one = statistics.paired([0.6], [0.5])
    assert (one.num_pairs, one.p, one.wins) == (1, 1, 1) and math.isnan(one.low)


@pytest.mark.parametrize("num", range(1, 9))
def test_the_smallest_p_is_reached_when_all_differences_agree(num):
    found = statistics.paired(np.arange(1.0, num + 1), np.zeros(num))
    assert found.p == found.smallest_p == statistics.smallest_p(num)
    assert (found.p <= 0.05) == (num >= statistics.pairs_needed(1))


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, made non-decreasing.
    corrected = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1, 1]
    assert statistics.holm([]) == [] and statistics.holm([0.3]) == [0.3]


def test_holm_rejects_no_more_than_its_definition():
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(size=6) ** 3
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (6 - rank):
                break
            rejected.add(int(index))
        assert {i for i, q in enumerate(statistics.holm(p)) if q <= 0.05} == rejected
