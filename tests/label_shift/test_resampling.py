"""Draws of class shares, against the equations that they solve."""

import numpy as np
import pytest

from fkjax.label_shift.resampling import (
    class_weights,
    draw_shares,
    mean_features,
    with_pseudo_examples,
)
from tests.label_shift.gaussians import FLAT, SKEWED, gaussians


@pytest.fixture(scope="module")
def drawn(data):
    labels, features, pool = data
    rng = np.random.default_rng(0)
    examples = with_pseudo_examples(rng, labels, 3)
    weights = class_weights(rng, examples, 50)
    means = mean_features(rng, pool, features, labels, 50)
    return features, examples, weights, means


def test_each_draw_solves_its_own_equations(drawn):
    features, examples, weights, means = drawn
    found = draw_shares(np.random.default_rng(1), *drawn, SKEWED, FLAT)
    assert found.is_determined.all()
    for w, mean, shares in zip(weights, means, found.shares, strict=True):
        by_class = np.zeros((3, 3))
        np.add.at(by_class, examples.labels, w[:, None] * features[examples.rows])
        np.testing.assert_allclose(shares, np.linalg.solve(by_class.T, mean), atol=0.01)


def test_what_the_equations_leave_open_scatters(drawn):
    _, examples, weights, _ = drawn
    # The features tell the first class from the others, which look the same.
    blind = np.repeat([[1.0, 0.0], [0.0, 1.0]], [1, 2], axis=0)
    labels = examples.labels[examples.sizes == 1]
    features = blind[labels]
    means = np.tile([0.6, 0.4], (50, 1))
    rng = np.random.default_rng(2)
    found = draw_shares(rng, features, examples, weights, means, SKEWED, FLAT)
    np.testing.assert_array_equal(found.is_determined, [True, False, False])
    deviations = found.shares.std(axis=0)
    assert deviations[0] < 0.05 and (deviations[1:] > 0.2).all()
    assert found.shares[:, 1:].sum(axis=1).std() < 0.05


def test_pseudo_examples_weigh_as_much_as_one_example_of_a_class(drawn):
    _, examples, weights, _ = drawn
    num = int((examples.sizes == 1).sum())
    sizes = np.bincount(examples.labels[num:], examples.sizes[num:])
    np.testing.assert_allclose(sizes, 1)
    for y in range(3):
        of_class = examples.labels == y
        np.testing.assert_allclose(weights[:, of_class].sum(axis=1), 1)
        pseudo = weights[:, of_class & (examples.sizes < 1)].sum(axis=1)
        assert pseudo.mean() == pytest.approx(1 / of_class[:num].sum(), rel=0.6)


def test_means_are_those_of_the_pool():
    rng = np.random.default_rng(3)
    pool = gaussians(rng, SKEWED, 2000)[1]
    labels, features = gaussians(rng, FLAT, 60)
    means = mean_features(rng, pool, features, labels, 400)
    np.testing.assert_allclose(means.mean(axis=0), pool.mean(axis=0), atol=3e-3)
    deviation = pool.std(axis=0) / np.sqrt(len(pool))
    np.testing.assert_allclose(means.std(axis=0), deviation, rtol=0.15)
