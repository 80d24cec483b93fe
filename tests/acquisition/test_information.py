"""Compares the information with NumPy's determinants in float64, also under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.information import diagonal_information, mutual_information


def second_moment(v):
    return v.T @ v / len(v) + 1e-8 * np.eye(v.shape[1])


def log_det(matrix):
    sign, value = np.linalg.slogdet(matrix)
    assert sign == 1
    return value


def by_numpy(z, g):
    z, g = z.astype(np.float64), g.astype(np.float64)
    joint = second_moment(np.concatenate([z, g], 1))
    return sum(log_det(second_moment(v)) for v in (z, g)) - log_det(joint)


def by_channel(z, g):
    return sum(by_numpy(z[:, [i]], g[:, [i]]) for i in range(z.shape[1]))


MEASURES = [(mutual_information, by_numpy), (diagonal_information, by_channel)]
MEASURES = pytest.mark.parametrize(("measure", "reference"), MEASURES)


def samples(num, num_samples, length):
    """Dependent z and g; one unit of z is dead, and two units of g are equal."""
    rng = np.random.default_rng(length)
    z = rng.normal(size=(num, num_samples, length))
    g = rng.normal(size=z.shape) * 0.1 + 0.2 * z + 0.3
    z[..., 0], g[..., 1] = 0, g[..., 2]
    return z.astype(np.float32), g.astype(np.float32)


@MEASURES
@pytest.mark.parametrize(("num_samples", "length"), [(50, 6), (5, 8)])
def test_it_is_the_formula(measure, reference, num_samples, length):
    for z, g in zip(*samples(3, num_samples, length), strict=True):
        value = measure(jnp.asarray(z), jnp.asarray(g))
        assert value.shape == () and value.dtype == jnp.float32
        np.testing.assert_allclose(value, reference(z, g), rtol=1e-5)


def in_a_loop(z, g, measure):
    return jax.lax.map(lambda each: measure(*each), (z, g), batch_size=2)


def mapped_after_it_was_compiled(z, g, measure):
    loop = jax.jit(lambda z, g: in_a_loop(z, g, measure))
    return jax.vmap(loop)(jnp.stack([z, z + 1]), jnp.stack([g, g]))[0]


def in_a_branch(z, g, measure):
    def one(z, g):
        return jax.lax.cond(g.sum() > 0, measure, lambda z, g: -measure(z, g), z, g)

    return jax.vmap(one)(z, g)


@MEASURES
@pytest.mark.parametrize("use", [in_a_loop, mapped_after_it_was_compiled, in_a_branch])
def test_it_stays_in_float64_wherever_it_is_mapped(measure, reference, use):
    z, g = samples(3, 50, 6)
    expected = [reference(*each) for each in zip(z, g, strict=True)]
    for run in (use, jax.jit(use, static_argnums=2)):
        np.testing.assert_allclose(
            run(jnp.asarray(z), jnp.asarray(g), measure), expected, rtol=1e-5
        )


@MEASURES
def test_one_z_for_many_g(measure, reference):
    z, g = samples(4, 30, 5)
    mapped = jax.jit(jax.vmap(jax.vmap(measure, (None, 0)), (0, None)))
    np.testing.assert_allclose(
        mapped(z[:2], g), [[reference(a, b) for b in g] for a in z[:2]], rtol=1e-5
    )


@pytest.mark.parametrize("measure", [mutual_information, diagonal_information])
def test_independent_vectors_share_nothing_and_equal_ones_much(measure):
    rng = np.random.default_rng(0)
    z, g = jnp.asarray(rng.normal(size=(2, 5000, 4)), jnp.float32)
    assert 0 < measure(z, g) < 0.02  # about L^2 / K
    assert measure(z, z + g) > 4 * np.log(2) - 0.2  # half of the variance is shared
    assert measure(z, z) > 4 * np.log(1e7)


def test_the_diagonal_does_not_see_what_channels_share_crosswise():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(5000, 2)), jnp.float32)
    assert diagonal_information(z, z[:, ::-1]) < 0.01
    assert mutual_information(z, z[:, ::-1]) > 10


@pytest.mark.parametrize("measure", [mutual_information, diagonal_information])
def test_dead_units_stay_finite(measure):
    zeros, ones = jnp.zeros((4, 6)), jnp.ones((4, 6))
    assert measure(zeros, ones) == pytest.approx(0, abs=1e-4)
    assert measure(zeros, zeros) == pytest.approx(0, abs=1e-4)
    assert np.isfinite(measure(100 * ones, 100 * ones))
