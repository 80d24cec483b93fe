"""Intervals, paired tests and their correction for comparisons over few seeds.

Resampling uses a fixed seed: the same numbers give the same intervals.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

NUM_RESAMPLES = 9999
_EXACT_UP_TO = 14  # pairs; for more, scipy chooses an exact or an approximate test
_DIGITS = 12  # smaller differences are rounding errors and count as ties


class Paired(NamedTuple):
    """The comparison of two strategies on the same seeds.

    Attributes:
        num_pairs: number of seeds that both have.
        mean: mean difference, first minus second; NaN without a pair.
        low: lower end of the bootstrap interval of the mean; NaN with fewer than two
            pairs.
        high: upper end of the interval; NaN with fewer than two pairs.
        p: p-value of the two-sided Wilcoxon signed-rank test; 1 if no pair differs.
        smallest_p: smallest p-value that the test can give for the number of pairs
            that differ.
        wins: number of pairs in which the first is higher.
        ties: number of pairs in which both are equal.
        losses: number of pairs in which the first is lower.
    """

    num_pairs: int
    mean: float
    low: float
    high: float
    p: float
    smallest_p: float
    wins: int
    ties: int
    losses: int


def mean_interval(values: Any, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Computes the percentile bootstrap interval of a mean over seeds.

    All columns are resampled by the same draws. With few seeds the interval is too
    narrow: it never exceeds the range of the seeds.

    >>> low, high = mean_interval([0.5, 0.6, 0.7])
    >>> bool(0.5 <= low < 0.6 < high <= 0.7)
    True

    Args:
        values: values with one row for each seed. Shape [S, ...].
        level: fraction of the bootstrap distribution within the interval.

    Returns:
        The lower and upper ends of the interval; NaN where a value is NaN or there are
        fewer than two seeds. Shape [...] each.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    rng, num = np.random.default_rng(0), len(values)
    times_drawn = rng.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES)
    means = np.tensordot(times_drawn / num, values, axes=1)  # [NUM_RESAMPLES, ...]
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(means, tails, axis=0)
    # Rounding may move the mean of equal values away from them.
    return (
        np.clip(low, values.min(axis=0), values.max(axis=0)),
        np.clip(high, values.min(axis=0), values.max(axis=0)),
    )


def paired(first: Any, second: Any) -> Paired:
    """Compares two strategies by their differences on the same seeds.

    The signed-rank test is exact, with or without ties, for up to 14 pairs that differ;
    pairs that do not differ are left out of it (Wilcoxon 1945).

    Args:
        first: number of the first strategy for each seed. Shape [S].
        second: number of the second strategy for the same seeds in the same order.
            Shape [S].

    Returns:
        The comparison, without the seeds for which either number is NaN.
    """
    difference = np.round(np.asarray(first, float) - np.asarray(second, float), _DIGITS)
    difference = difference[np.isfinite(difference)]
    low, high = mean_interval(difference)
    decided = difference[difference != 0]
    return Paired(
        num_pairs=len(difference),
        mean=float(difference.mean()) if len(difference) else float("nan"),
        low=float(low),
        high=float(high),
        p=_signed_rank(decided),
        smallest_p=smallest_p(len(decided)),
        wins=int((difference > 0).sum()),
        ties=len(difference) - len(decided),
        losses=int((difference < 0).sum()),
    )


def smallest_p(num_pairs: int) -> float:
    """Computes the smallest two-sided p-value of a signed-rank test: 2 / 2^n.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - num_pairs))


def pairs_needed(num_tests: int, *, level: float = 0.05) -> int:
    """Computes the fewest pairs with which a test can pass Holm's correction.

    >>> pairs_needed(1), pairs_needed(10)
    (6, 9)
    """
    num_pairs = 1
    while num_tests * smallest_p(num_pairs) > level:
        num_pairs += 1
    return num_pairs


def holm(p: Sequence[float]) -> list[float]:
    """Corrects p-values for multiple tests by Holm's step-down method (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Args:
        p: p-values of the tests of one family. Length m.

    Returns:
        The corrected p-values in the same order. Rejecting those below a level keeps
        the probability of one or more false rejections at or below that level.
    """
    corrected, highest = list(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected


def _signed_rank(decided: np.ndarray) -> float:
    if len(decided) < 2:
        return 1.0
    method: Any = "auto"
    if len(decided) <= _EXACT_UP_TO:  # all 2^n signs, which is exact with ties, too
        method = stats.PermutationMethod(n_resamples=2 ** len(decided))
    found: Any = stats.wilcoxon(decided, method=method)
    return float(found.pvalue)
