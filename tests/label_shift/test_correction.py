"""Checks prior correction against Bayes' rule, and the choice of its strength."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import PriorCorrection, UserError
from fkjax.label_shift import choose_correction, corrected, smoothed_shares

TRAINING, DEPLOYMENT = np.array([0.9, 0.09, 0.01]), np.array([0.2, 0.3, 0.5])


def likelihoods(rng, num, shares):
    """Draws p(x | y) of examples with three values of x. Shapes [num, 3], [num]."""
    table = np.array([[0.7, 0.2, 0.1], [0.15, 0.7, 0.15], [0.1, 0.3, 0.6]])
    labels = rng.choice(3, num, p=shares)
    values = np.array([rng.choice(3, p=table[y]) for y in labels])
    return table.T[values], labels


def posterior(likelihood, shares):
    joint = likelihood * shares
    return joint / joint.sum(axis=1, keepdims=True)


def test_strength_one_is_bayes_rule():
    likelihood, _ = likelihoods(np.random.default_rng(0), 50, DEPLOYMENT)
    correction = PriorCorrection(1.0, 1.0, np.log(DEPLOYMENT / TRAINING))
    found = jnp.exp(corrected(correction, np.log(posterior(likelihood, TRAINING))))
    np.testing.assert_allclose(found, posterior(likelihood, DEPLOYMENT), rtol=1e-5)


def test_zero_strength_changes_nothing():
    log_probs = jnp.log(jnp.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]))
    same = corrected(PriorCorrection(0.0, 1.0, jnp.zeros(3)), log_probs)
    np.testing.assert_allclose(same, log_probs, atol=1e-6)


@pytest.mark.parametrize(
    ("strength", "temperature"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (0.5, 0.5)]
)
def test_many_examples_choose_the_strength_that_is_right(strength, temperature):
    rng = np.random.default_rng(1)
    likelihood, labels = likelihoods(rng, 4000, DEPLOYMENT)
    right = np.log(posterior(likelihood, DEPLOYMENT))
    # The prediction of which this correction is the inverse.
    log_ratio = np.log(DEPLOYMENT) - np.log(TRAINING)
    predicted = right * temperature - strength * log_ratio
    found = choose_correction(predicted, labels, TRAINING, DEPLOYMENT)
    assert abs(float(found.strength) - strength) <= 0.25
    assert abs(np.log(float(found.temperature) / temperature)) <= 0.15


def test_few_examples_stay_near_the_theory():
    # Twenty examples whose log-loss alone prefers the end of the grid.
    predicted = np.log(np.tile([[0.4, 0.3, 0.3]], (20, 1)))
    labels = np.repeat([2], 20)
    free = choose_correction(predicted, labels, TRAINING, DEPLOYMENT, spread=100.0)
    shrunk = choose_correction(predicted[:2], labels[:2], TRAINING, DEPLOYMENT)
    assert max(abs(free.strength - 1), abs(jnp.log(free.temperature))) > 0.7
    assert max(abs(shrunk.strength - 1), abs(jnp.log(shrunk.temperature))) < 0.5
    nothing = choose_correction(np.zeros((0, 3)), [], TRAINING, DEPLOYMENT)
    assert (float(nothing.strength), float(nothing.temperature)) == (1, 1)


def test_smoothed_shares_count_one_more_of_each_class():
    shares = smoothed_shares(jnp.array([2, 2, 0, -1]), 3)
    np.testing.assert_allclose(shares, [2 / 6, 1 / 6, 3 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 3)), [0, 1, 2, 3], TRAINING, DEPLOYMENT), "labels must be"),
        ((np.zeros((4, 3)), [0, 1, 2], TRAINING, DEPLOYMENT), "one label for each"),
        ((np.zeros((4, 3)), [0] * 4, TRAINING[:2], DEPLOYMENT), "one number for each"),
        ((np.zeros((4, 3)), [0] * 4, TRAINING, [1, 0, 0]), "shares must be positive"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        choose_correction(*arguments)


def test_corrections_are_arrays_that_jit_takes():
    likelihood, labels = likelihoods(np.random.default_rng(2), 20, DEPLOYMENT)
    correction = choose_correction(np.log(likelihood), labels, TRAINING, DEPLOYMENT)
    log_probs = jnp.log(likelihood)
    np.testing.assert_allclose(
        jax.jit(corrected)(correction, log_probs),
        corrected(correction, log_probs),
        rtol=1e-5,
    )
