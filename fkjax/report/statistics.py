"""How sure a comparison over few seeds is: intervals, paired tests, corrections.

Nothing is drawn from a clock: the same numbers give the same intervals.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

NUM_RESAMPLES = 9999
_EXACT_UP_TO = 14  # pairs: beyond, scipy chooses between the exact test and the normal
_DIGITS = 12  # what differs by less is a tie, not rounding


class Paired(NamedTuple):
    """Two strategies on the same seeds.

    Attributes:
        num_pairs: seeds that both have.
        mean: mean difference, first minus second; NaN without a pair.
        low: lower end of its bootstrap interval; NaN with fewer than two pairs.
        high: upper end.
        p: of the two-sided Wilcoxon signed-rank test; 1 if no pair differs.
        smallest_p: the smallest that test can give with as many pairs that differ.
        wins: pairs in which the first is higher.
        ties: pairs in which neither is.
        losses: pairs in which the first is lower.
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
    """The percentile bootstrap interval of a mean over seeds.

    All columns are resampled by the same draws. With two or three seeds the interval is
    too narrow: it never leaves the range of the seeds.

    >>> low, high = mean_interval([0.5, 0.6, 0.7])
    >>> bool(0.5 <= low < 0.6 < high <= 0.7)
    True

    Args:
        values: a row for each seed. Shape [S, ...].
        level: share of the bootstrap distribution within the interval.

    Returns:
        Its lower and upper ends; NaN where there are fewer than two seeds, or a value
        is NaN. Shape [...].
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
    # A mean of equal values may miss them by rounding.
    return (
        np.clip(low, values.min(axis=0), values.max(axis=0)),
        np.clip(high, values.min(axis=0), values.max(axis=0)),
    )


def paired(first: Any, second: Any) -> Paired:
    """Compares two strategies by their differences on the same seeds.

    The signed-rank test is exact, ties or not, for up to 14 pairs that differ; pairs
    that do not differ say nothing and are left out of it (Wilcoxon 1945).

    Args:
        first: a number for each seed. Shape [S].
        second: likewise, of the same seeds in the same order. Shape [S].

    Returns:
        The comparison; a seed for which either number is NaN is no pair.
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
    """The smallest two-sided p of a signed-rank test: 2 / 2^n.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - num_pairs))


def pairs_needed(num_tests: int, *, level: float = 0.05) -> int:
    """The fewest pairs with which one of several tests can pass Holm's correction.

    >>> pairs_needed(1), pairs_needed(10)
    (6, 9)
    """
    num_pairs = 1
    while num_tests * smallest_p(num_pairs) > level:
        num_pairs += 1
    return num_pairs


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Args:
        p: of the tests of one family. Length m.

    Returns:
        In the same order: below a level with the chance, at most that level, of one or
        more false rejections.
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
    if len(decided) <= _EXACT_UP_TO:  # all 2^n signs, so that ties are exact too
        method = stats.PermutationMethod(n_resamples=2 ** len(decided))
    found: Any = stats.wilcoxon(decided, method=method)
    return float(found.pvalue)
