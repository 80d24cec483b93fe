"""Estimates of the class balance of a pool without labels, with intervals."""

from fkjax.base import PriorCorrection
from fkjax.label_shift.correction import (
    choose_correction,
    corrected,
    no_correction,
    smoothed_shares,
)
from fkjax.label_shift.estimators import Estimate, bbse_prior, em_prior
from fkjax.label_shift.scaling import Calibration, calibrated, calibration
from fkjax.label_shift.shift import bias, part_of_pool
from fkjax.label_shift.types import Distance, Shares, Shift
from fkjax.label_shift.wording import ASSUMPTION, BREAKS

__all__ = [
    "ASSUMPTION",
    "BREAKS",
    "Calibration",
    "Distance",
    "Estimate",
    "PriorCorrection",
    "Shares",
    "Shift",
    "bbse_prior",
    "bias",
    "calibrated",
    "calibration",
    "choose_correction",
    "corrected",
    "em_prior",
    "no_correction",
    "part_of_pool",
    "smoothed_shares",
]
