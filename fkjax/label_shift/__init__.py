"""Estimates of the class balance of a pool without labels, with intervals."""

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
    "Shares",
    "Shift",
    "bbse_prior",
    "bias",
    "calibrated",
    "calibration",
    "em_prior",
    "part_of_pool",
]
