"""A LeNet and images that tests of its Fisher vectors share."""

import jax
import numpy as np
import pytest

from fkjax.models import lenet


@pytest.fixture(scope="module")
def model():
    return lenet((28, 28, 1), 10)


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(model.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
