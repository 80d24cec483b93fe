"""Compares greedy picks with brute force in NumPy: float64, fresh inverses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import conditioned
from fkjax.acquisition.greedy import pick
from fkjax.parallel.rows import rows_of

NOISE = 0.1


def unit_rows(rng, num, rank):
    rows = rng.normal(size=(num, rank))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact_covariance(features, rank=None):
    phi = np.asarray(features, float).reshape(-1, rank or features.shape[1])
    return np.linalg.inv(np.eye(phi.shape[1]) + phi.T @ phi / NOISE)


class Problem:
    """A pool, targets and labeled examples, with the gains of the three functions."""

    def __init__(self, seed, num=40, rank=6):
        rng = np.random.default_rng(seed)
        self.pool, self.labeled = unit_rows(rng, num, rank), unit_rows(rng, 5, rank)
        self.targets, self.weights = unit_rows(rng, 7, rank), rng.random(num) + 0.1
        self.is_open = rng.random(num) < 0.8
        pool = self.pool.astype(float)
        self.sigma = (pool.T * self.weights) @ pool / self.weights.sum()

    def gain(self, name):
        pool, m = rows_of(self.pool), self.covariance(self.labeled)
        if name == "fisher_ratio":
            sigma = conditioned.gram(pool, self.weights) / self.weights.sum()
            return conditioned.fisher_ratio(pool, m, sigma, noise=NOISE)
        if name == "variance":
            return conditioned.variance(pool, m, noise=NOISE)
        if name == "mutual_information":
            both = self.covariance(jnp.concatenate([self.labeled, self.targets]))
            return conditioned.mutual_information(pool, m, both, noise=NOISE)
        return conditioned.herding(
            pool, self.targets.mean(axis=0), self.labeled.sum(axis=0), len(self.labeled)
        )

    def covariance(self, features):
        gram = conditioned.gram(rows_of(features), jnp.ones(len(features)))
        return conditioned.covariance(gram, noise=NOISE)

    def exact_gain(self, name, i, before):
        """The definition: the change of the objective, from fresh inverses."""
        known = np.concatenate([self.labeled, self.pool[before]]).astype(float)
        phi = self.pool[i].astype(float)
        if name == "herding":
            mean = self.targets.astype(float).mean(axis=0)
            return phi @ (mean - known.sum(axis=0) / (len(known) + 1))
        m = exact_covariance(known)
        if name == "fisher_ratio":
            after = exact_covariance(np.concatenate([known, phi[None]]))
            return np.trace(m @ self.sigma) - np.trace(after @ self.sigma)
        if name == "variance":
            return phi @ m @ phi
        both = exact_covariance(np.concatenate([known, self.targets]))
        return np.log((phi @ m @ phi + NOISE) / (phi @ both @ phi + NOISE)) / 2


@functools.cache
def compiled(name):
    def run(problem_arrays, key, budget):
        problem = Problem.__new__(Problem)
        problem.__dict__.update(problem_arrays)
        gain = problem.gain(name)
        return pick(key, rows_of(problem.pool), problem.is_open, gain, budget=budget)

    return jax.jit(run, static_argnames="budget")


NAMES = ["fisher_ratio", "variance", "mutual_information", "herding"]


@pytest.mark.parametrize("name", NAMES)
def test_each_pick_has_the_highest_gain_by_definition(name):
    for seed in range(5):
        problem = Problem(seed)
        picks, gains = compiled(name)(
            jax.tree.map(jnp.asarray, vars(problem)), jax.random.key(0), budget=12
        )
        picks = picks.tolist()
        assert len(set(picks)) == 12
        assert problem.is_open[picks].all()
        for n, (i, gain) in enumerate(zip(picks, gains, strict=True)):
            left = [j for j in np.flatnonzero(problem.is_open) if j not in picks[:n]]
            exact = {j: problem.exact_gain(name, j, picks[:n]) for j in left}
            np.testing.assert_allclose(gain, exact[i], rtol=2e-4, atol=1e-6)
            assert exact[i] >= max(exact.values()) - 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_ties_are_broken_at_random_and_copies_are_separate_rows(name):
    problem = Problem(0, num=8)
    problem.pool = np.repeat(problem.pool[:1], 8, axis=0)
    problem.is_open[:] = True
    arrays = jax.tree.map(jnp.asarray, vars(problem))
    orders = {
        tuple(compiled(name)(arrays, jax.random.key(seed), budget=8)[0].tolist())
        for seed in range(4)
    }
    assert len(orders) == 4
    assert all(sorted(order) == list(range(8)) for order in orders)


def test_zero_rows_gain_nothing_and_come_last():
    problem = Problem(1)
    problem.pool[::2], problem.is_open[:] = 0, True
    picks, gains = compiled("fisher_ratio")(
        jax.tree.map(jnp.asarray, vars(problem)), jax.random.key(0), budget=25
    )
    assert all(i % 2 for i in picks[:20].tolist())
    assert (np.asarray(gains[20:]) == 0).all()


@pytest.mark.parametrize("rank", [4, 64])
def test_state_after_many_picks_equals_a_fresh_inverse(rank):
    problem = Problem(2, num=400, rank=rank)
    problem.is_open[:] = True
    arrays = jax.tree.map(jnp.asarray, vars(problem))
    picks, gains = compiled("fisher_ratio")(arrays, jax.random.key(0), budget=300)
    for n in (100, 299):
        exact = problem.exact_gain("fisher_ratio", int(picks[n]), picks[:n].tolist())
        np.testing.assert_allclose(gains[n], exact, rtol=2e-3, atol=2e-7)


def test_weights_of_zero_leave_examples_out():
    pool = unit_rows(np.random.default_rng(3), 450, 6)  # more than two blocks
    weights = np.arange(450) < 412
    gram = jax.jit(lambda x, w: conditioned.gram(rows_of(x), w))(pool, weights)
    some = conditioned.covariance(gram, noise=NOISE)
    np.testing.assert_allclose(some, exact_covariance(pool[:412]), rtol=1e-4, atol=1e-7)
    none = conditioned.covariance(jnp.zeros((6, 6)), noise=NOISE)
    np.testing.assert_array_equal(none, np.eye(6))
