"""Class priors by EM and by BBSE, against their definitions."""

import itertools

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.label_shift import (
    bbse_prior,
    em_prior,
)
from tests.label_shift.gaussians import FLAT, SKEWED, gaussians


def test_em_is_the_fixed_point_of_its_definition(data):
    pool, start = data[2], np.array([0.5, 0.3, 0.2])
    q = start
    for _ in range(3000):
        posterior = q / start * pool
        q = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(em_prior(pool, start).prior, q, atol=2e-4)


def test_em_reaches_the_edge_where_a_class_never_occurs():
    rng = np.random.default_rng(1)
    pool = gaussians(rng, np.array([0.5, 0.5, 0.0]), 2000)[1]
    prior = em_prior(pool, FLAT).prior
    assert prior[2] < 0.02 and prior.sum() == pytest.approx(1)
    sure = np.eye(3)[[0, 0, 0, 1] * 20]
    np.testing.assert_allclose(em_prior(sure, FLAT).prior, [0.75, 0.25, 0], atol=1e-4)


def test_em_says_when_the_probabilities_do_not_tell_classes_apart():
    flat = em_prior(np.tile(FLAT, (100, 1)), FLAT)
    assert "hardly separate" in flat.problem and np.isnan(flat.prior).all()
    rng = np.random.default_rng(2)
    half = gaussians(rng, FLAT[:2] * 1.5, 300)[1]
    twins = np.stack([half[:, 0], half[:, 1] / 2, half[:, 1] / 2], axis=1)
    assert em_prior(twins, FLAT).problem.endswith("1 from 2")


def confusion(predicted, labels):
    a = np.zeros((3, 3))
    np.add.at(a, (predicted, labels), 1)
    return a / a.sum(axis=0)


def test_bbse_solves_its_equations(data):
    labels, probs, pool = data
    predicted, guesses = probs.argmax(axis=1), pool.argmax(axis=1)
    prior = bbse_prior(guesses, predicted, labels, 3).prior
    shares = np.bincount(guesses, minlength=3) / len(guesses)
    np.testing.assert_allclose(confusion(predicted, labels) @ prior, shares, atol=1e-12)
    np.testing.assert_allclose(prior, SKEWED, atol=0.04)


def test_bbse_is_the_best_nonnegative_solution(data):
    labels, probs, _ = data
    predicted, guesses = probs.argmax(axis=1), np.zeros(50, int)
    a, shares = confusion(predicted, labels), np.eye(3)[0]
    best = None
    for support in itertools.product([False, True], repeat=3):  # those not held at zero
        if not any(support):
            continue
        q = np.zeros(3)
        q[list(support)] = np.linalg.lstsq(a[:, list(support)], shares)[0]
        error = np.linalg.norm(a @ q - shares)
        if (q >= 0).all() and (best is None or error < best[0]):
            best = error, q / q.sum()
    found = bbse_prior(guesses, predicted, labels, 3).prior
    np.testing.assert_allclose(found, best[1], atol=1e-9)


def test_bbse_says_when_it_is_not_determined(data):
    labels = data[0]
    never = bbse_prior(labels, np.minimum(labels, 1), labels, 3)
    assert never.problem == "the model predicts no validation example as 2"
    assert np.isnan(never.prior).all()
    rng = np.random.default_rng(3)
    by_lot = np.where(labels == 0, 0, rng.integers(1, 3, len(labels)))
    assert bbse_prior(labels, by_lot, labels, 3).problem.endswith("1 from 2")
    assert not bbse_prior(labels, labels, labels, 3).problem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [0, 1], [0, 1], 1), "two or more classes"),
        (([], [0, 1], [0, 1], 2), "predictions of the pool"),
        (([0, 2], [0, 1], [0, 1], 2), "predictions of the pool must be numbers"),
        (([0, 1], [0, 2], [0, 1], 2), "predictions of the validation set"),
        (([0, 1], [0, 1], [0, 1, 1], 2), "each of its 2 predictions"),
        (([0, 1], [0, 1], [0, 0], 2), "none of 1"),
    ],
)
def test_a_mistake_of_bbse_is_told(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        bbse_prior(*arguments)
    assert "\n" not in str(error.value)
