"""Data that all tests of label shift share."""

import numpy as np
import pytest

from tests.label_shift.gaussians import FLAT, SKEWED, gaussians


@pytest.fixture(scope="module")
def data():
    """Validation labels, their probabilities and the pool's."""
    rng = np.random.default_rng(0)
    labels, probs = gaussians(rng, FLAT, 1200)
    return labels, probs, gaussians(rng, SKEWED, 3000)[1]
