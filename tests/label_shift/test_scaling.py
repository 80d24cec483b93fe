"""Calibration against the loss that it minimizes."""

import numpy as np
import pytest

from fkjax.label_shift import (
    Calibration,
    calibrated,
    calibration,
    em_prior,
)
from tests.label_shift.gaussians import FLAT, SKEWED, gaussians, softmax


def test_calibration_undoes_what_made_the_probabilities_wrong():
    rng = np.random.default_rng(4)
    labels, exact = gaussians(rng, FLAT, 5000, mean=1.2)
    wrong = softmax(3 * np.log(exact) + np.array([1.0, 0.0, -0.5]))
    found = calibration(wrong, labels)
    assert found.slope == pytest.approx(1 / 3, abs=0.03)
    np.testing.assert_allclose(
        found.offset - found.offset.mean(), [-0.28, 0.06, 0.22], atol=0.1
    )
    mended = calibrated(found, wrong)
    assert np.abs(mended - exact).mean() < 0.02 < np.abs(wrong - exact).mean()


def test_calibration_is_where_its_loss_has_no_slope(data):
    labels, probs, _ = data
    best = calibration(probs, labels)

    def loss(theta):
        p = calibrated(Calibration(theta[0], theta[1:]), probs)
        away = theta - np.eye(4)[0]
        return -np.log(p[np.arange(len(p)), labels]).sum() + away @ away / 2

    theta = np.array([best.slope, *best.offset])
    for step in 0.01 * np.concatenate([np.eye(4), -np.eye(4)]):
        assert loss(theta + step) > loss(theta)


def test_calibration_stays_finite_where_nothing_is_wrong():
    found = calibration(np.eye(3)[[0, 1, 2]] * 0.8 + 0.2 / 3, [0, 1, 2])
    assert 1 < found.slope < 5 and np.abs(found.offset).max() < 1e-6


def test_calibration_is_what_em_needs():
    rng = np.random.default_rng(5)
    labels, probs = gaussians(rng, FLAT, 4000, sharpness=4, mean=1.2)
    pool = gaussians(rng, SKEWED, 8000, sharpness=4, mean=1.2)[1]
    raw = em_prior(pool, FLAT).prior
    mended = em_prior(calibrated(calibration(probs, labels), pool), FLAT).prior
    assert np.abs(mended - SKEWED).max() < 0.04 < np.abs(raw - SKEWED).max()
