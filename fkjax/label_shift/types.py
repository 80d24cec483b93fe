"""The types of the results of `fkjax.label_shift.bias`."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fkjax.label_shift.estimators import Estimate


class Shares(NamedTuple):
    """A number for each class with its 95 % interval; NaN if it is not determined.

    Attributes:
        value: the number. Shape [C].
        low: lower end of the interval. Shape [C].
        high: upper end of the interval. Shape [C].
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Distance(NamedTuple):
    """One number with its 95 % interval.

    Attributes:
        value: the number.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shift:
    """The class balance of a pool compared with that of its validation set.

    Attributes:
        classes: names of the classes. Length C.
        validation: class shares in the validation set.
        em: class shares in the pool, estimated by maximum likelihood.
        bbse: class shares in the pool, by black-box shift estimation.
        em_problem: reason why `em` is not determined for some or all classes; empty if
            it is determined for all.
        bbse_problem: the same for `bbse`.
        best: the estimate that is determined for more classes, "bbse" or "em". It is
            "bbse" if both are determined for as many, because that needs no
            calibration; an empty string if neither is determined for any.
        ratio: share of each class in the pool divided by its share in the validation
            set, by the best estimate.
        distance: total variation distance of the two priors, by the best estimate: the
            share of the pool that would have to be of other classes for the two to
            agree. It is NaN if the best estimate is not determined for all classes.
        p: p-value of the test that the model predicts the classes equally often in
            both sets.
        verdict: "biased", "no sign" or "undetermined".
        sentence: the verdict, a colon and its evidence, in one or two sentences.
        cautions: reasons to doubt the estimates, one sentence each.
        num_pool: number of pool examples that were used.
        num_validation: number of validation examples, M.
        num_resamples: number of bootstrap resamples.
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
        """The best estimate of the pool's class shares; NaN if there is none."""
        return self.em if self.best == "em" else self.bbse


class Found(NamedTuple):
    """An estimate of the prior, with its values in the resamples.

    Attributes:
        estimate: the estimate from all examples.
        draws: prior estimated from each resample. Shape [num_resamples, C].
    """

    estimate: Estimate
    draws: np.ndarray


class Bootstrap(NamedTuple):
    """The results of a bootstrap.

    Attributes:
        em: estimates by EM.
        bbse: estimates by BBSE.
        best: the estimate that determines more classes, "bbse" if both do as many.
        gap: excess of the model's confidence in the pool over the expected one, from
            all examples and in each resample. Shapes [] and [num_resamples].
    """

    em: Found
    bbse: Found
    best: str
    gap: tuple[float, np.ndarray]
