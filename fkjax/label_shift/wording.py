"""The texts that describe the bias of a pool."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fkjax.label_shift.checks import listed
from fkjax.label_shift.types import Bootstrap, Distance, Shares

ASSUMPTION = (
    "This assumes label shift: within each class, the examples of the pool look like "
    "those of the validation set, and only the shares of the classes differ."
)
BREAKS = (
    "It does not hold, and the estimates mislead, where the pool's examples of a class "
    "look different (another camera, site or season), where the pool has classes that "
    "the validation set lacks, or where the model was trained on examples of either."
)
ALPHA = 0.05
_LARGE = 0.2  # distance above which the interval must not reach for "no sign"
_FEW = 10  # examples of a class; with fewer its share is known to half its value
_GAP = 0.02  # smallest difference of shares or mean confidences that is reported
_SURE = 4  # standard errors from zero; many, because many classes are tested


def em_problem(
    unknown: np.ndarray, silent: np.ndarray, names: Sequence[str], num: int
) -> str:
    """Returns why EM does not determine some classes, as part of a sentence.

    Args:
        unknown: whether the share of each class is not determined. Shape [C] bool.
        silent: whether the probability of each class is always zero. Shape [C] bool.
        names: names of the classes. Length C.
        num: number of validation examples.

    Returns:
        The reason; empty if all shares are determined.
    """
    if silent.any():
        return (
            f"the model's probability of {listed(names, np.flatnonzero(silent))} is "
            "always zero, so that examples of these classes count as those of others"
        )
    if not unknown.any():
        return ""
    return (
        f"the model's probabilities for {num:,} validation examples hardly separate "
        f"{listed(names, np.flatnonzero(unknown))} from other classes"
    )


def bbse_problem(
    unknown: np.ndarray, never: np.ndarray, names: Sequence[str], num: int
) -> str:
    """Returns why BBSE does not determine some classes, as part of a sentence.

    Args:
        unknown: whether the share of each class is not determined. Shape [C] bool.
        never: whether no validation example is predicted as each class. Shape [C] bool.
        names: names of the classes. Length C.
        num: number of validation examples.

    Returns:
        The reason; empty if all shares are determined.
    """
    reasons = []
    if never.any():
        shown = listed(names, np.flatnonzero(never))
        reasons.append(f"the model predicts no validation example as {shown}")
    others = np.flatnonzero(unknown & ~never)
    if len(others):
        reasons.append(
            f"the predictions of {num:,} validation examples hardly separate "
            f"{listed(names, others)} from other classes"
        )
    return ", and ".join(reasons)


def verdict_of(p: float, distance: Distance, problem: str) -> str:
    """Returns whether the pool is biased: one of three verdicts."""
    if p < ALPHA:
        return "biased"
    return "undetermined" if problem or distance.high > _LARGE else "no sign"


def sentence_of(
    verdict: str,
    p: float,
    distance: Distance,
    ratio: Shares,
    problem: str,
    names: Sequence[str],
    num_validation: int,
) -> str:
    """Returns the verdict with its evidence, in one or two sentences."""
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    high = percent(distance.high)
    if verdict == "biased":
        text = (
            "The pool is biased: the shares of the classes that the model predicts "
            "differ from those in the validation set by more than chance "
            f"({chance})"
        )
        if problem:
            return (
                f"{text}; the size of the bias is not determined, as {problem}"
                f"{_extremes(ratio, names)}."
            )
        low = percent(distance.low).removesuffix(" %")
        return (
            f"{text}. About {percent(distance.value)} of it ({low} to {high}) would "
            "have to be of other classes for the two balances to agree"
            f"{_extremes(ratio, names)}."
        )
    same = (
        "the model predicts the classes about as often in the pool as in the "
        f"validation set ({chance})"
    )
    if verdict == "no sign":
        return (
            f"No sign that the pool is biased: {same}, and at most about {high} of it "
            "would have to be of other classes for the two balances to agree."
        )
    if problem:
        return f"Undetermined whether the pool is biased: {same}, but {problem}."
    return (
        f"Undetermined whether the pool is biased: {same}, but with only "
        f"{num_validation} validation examples, up to {high} of it may have to be of "
        "other classes for the two balances to agree."
    )


def _extremes(ratio: Shares, names: Sequence[str]) -> str:
    """Returns text on the classes that are most clearly too frequent and too rare."""
    text = ""
    for what, is_sure, order in (
        ("too frequent", ratio.low > 1, -ratio.low),
        ("too rare", ratio.high < 1, ratio.high),
    ):
        sure = [int(y) for y in np.argsort(order, kind="stable") if is_sure[y]]
        if sure:
            y, rest = sure[0], len(sure) - 1
            text += (
                f"; {what} is class {names[y]}, at {times(ratio.value[y])} times its "
                f"share ({times(ratio.low[y])} to {times(ratio.high[y])})"
            )
            text += f", and {rest} more" if rest else ""
    return text


def cautions_of(
    counts: np.ndarray, found: Bootstrap, names: Sequence[str]
) -> Iterator[str]:
    """Yields a sentence on each reason to doubt the estimates."""
    few = np.flatnonzero(counts < _FEW)
    if len(few):
        yield (
            f"The validation set has fewer than {_FEW} examples of "
            f"{listed(names, few)}: these are too few for narrow intervals."
        )
    (em, em_draws), (bbse, bbse_draws) = found.em, found.bbse
    difference = em.prior - bbse.prior
    apart = _is_sure(difference, (em_draws - bbse_draws).std(axis=0))
    if apart.any():
        yield (
            f"The two estimates disagree on {listed(names, np.flatnonzero(apart))} by "
            "more than chance: the calibration of EM's probabilities is not good "
            "enough, or label shift does not hold."
        )
    gap, draws = found.gap
    if _is_sure(gap, draws.std()):
        more = "more" if gap > 0 else "less"
        yield (
            f"The model is {more} confident in the pool than the estimated balance "
            f"explains, by {abs(100 * gap):.0f} percentage points on average: this is "
            "a sign that label shift does not hold, and that the pool's examples look "
            "different."
        )


def _is_sure(value: Any, error: Any) -> Any:
    """Returns whether a difference is large and beyond chance; False for NaN."""
    return (np.abs(value) > _GAP) & (np.abs(value) > _SURE * error)


def times(ratio: float) -> str:
    """Formats a ratio of shares, with two decimals if it is below one.

    >>> times(120.4), times(2.345), times(0.104), times(0.0001), times(float("nan"))
    ('120', '2.3', '0.10', 'under 0.01', '–')
    """
    if not np.isfinite(ratio):
        return "–"
    if ratio < 0.01:
        return "under 0.01"
    return f"{ratio:.{0 if ratio >= 9.95 else 1 if ratio >= 0.995 else 2}f}"


def percent(share: float) -> str:
    """Formats a share in percent, with one decimal if it is below ten percent.

    >>> percent(0.382), percent(0.0418), percent(0.0), percent(float("nan"))
    ('38 %', '4.2 %', '0 %', '–')
    """
    if not np.isfinite(share):
        return "–"
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.1f} %"
