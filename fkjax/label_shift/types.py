"""The results of `fkjax.label_shift.bias`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fkjax.label_shift.estimators import Estimate


class Shares(NamedTuple):
    """A number for each class with its 95 % interval; NaN where it is not known.

    Attributes:
        value: Shape [C].
        low: the interval's lower end. Shape [C].
        high: its upper end. Shape [C].
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Distance(NamedTuple):
    """One number with its 95 % interval.

    Attributes:
        value: the number.
        low: the interval's lower end.
        high: its upper end.
    """

    value: float
    low: float
    high: float


class Shift(NamedTuple):
    """The pool's class balance against the validation set's.

    Attributes:
        classes: their names. Length C.
        validation: the shares in the validation set.
        em: those in the pool, by maximum likelihood.
        bbse: those in the pool, by black-box shift estimation.
        em_problem: why `em` is not determined, or nothing.
        bbse_problem: why `bbse` is not determined, or nothing.
        best: which of the two is to be believed first, "bbse" or "em": the former if it
            is determined, for it rests on no calibration; empty if neither is.
        ratio: a class's share in the pool over that in the validation set, by the best.
        distance: the total variation distance of the two priors, by the best: the share
            of the pool that would have to be of other classes.
        p: of the test that the model predicts the classes equally often in both.
        verdict: "biased", "no sign" or "cannot be told".
        sentence: the verdict, a colon and what speaks for it.
        cautions: sentences on what weakens it.
        num_pool: examples of the pool that were looked at.
        num_validation: M.
        num_resamples: of the bootstrap.
    """

    classes: Sequence[str]
    validation: Shares
    em: Shares
    bbse: Shares
    em_problem: str
    bbse_problem: str
    best: str
    ratio: Shares
    distance: Distance
    p: float
    verdict: str
    sentence: str
    cautions: Sequence[str]
    num_pool: int
    num_validation: int
    num_resamples: int

    @property
    def pool(self) -> Shares:
        """The best estimate of the pool's shares; NaN if there is none."""
        return self.em if self.best == "em" else self.bbse


class Found(NamedTuple):
    """An estimate, and those of the resamples. Shape [num_resamples, C]."""

    estimate: Estimate
    draws: np.ndarray


class Bootstrap(NamedTuple):
    """Both, and the gap of `_gap` with those of the resamples."""

    em: Found
    bbse: Found
    gap: tuple[float, np.ndarray]
