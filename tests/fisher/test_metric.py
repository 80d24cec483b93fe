"""Every metric against its matrix, written out in NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.fisher import gram, metric
from fkjax.fisher.factors import Factors


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def positions_of(factors):
    a, d = (np.asarray(x, np.float64) for x in factors)
    return (a[:, None], d[:, None]) if a.ndim == 2 else (a, d)


def vectors_of(factors):
    """sum_t a_t d_t^T, flat. Shape [N, m n]."""
    a, d = positions_of(factors)
    return np.einsum("itm,itn->imn", a, d).reshape(len(a), -1)


def moments_of(factors):
    a, d = positions_of(factors)
    num, num_positions, _ = a.shape
    return (
        np.einsum("itm,itk->mk", a, a) / num,
        np.einsum("itn,itk->nk", d, d) / (num * num_positions),
    )


def kernel(u, fisher, v):
    return u @ np.linalg.solve(fisher, v.T)


def layer(rng, num, positions=(), m=4, n=3):
    return Factors(normal(rng, num, *positions, m), normal(rng, num, *positions, n))


def assert_close(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)


def test_identity_is_the_plain_inner_product():
    vectors = {"w": jnp.ones((2, 3))}
    plain = metric.identity_metric()
    assert plain.whiten(plain.fit(vectors), vectors) is vectors


@pytest.mark.parametrize("num", [1, 30])
def test_diagonal(num):
    rng = np.random.default_rng(num)
    fitted, u = normal(rng, num, 6), normal(rng, 5, 6)
    fisher = np.diag(np.square(fitted, dtype=np.float64).mean(0) + 0.1)

    def split(x):
        return {"w": x[:, :4].reshape(-1, 2, 2), "b": x[:, 4:]}

    diagonal = metric.diagonal(damping=0.1)
    whitened = diagonal.whiten(diagonal.fit(split(fitted)), split(u))
    whitened = np.concatenate([whitened["w"].reshape(5, 4), whitened["b"]], axis=1)
    assert_close(whitened @ whitened.T, kernel(u, fisher, u))


@pytest.mark.parametrize("positions", [(), (5,)])
@pytest.mark.parametrize("num", [1, 2, 40])
def test_kronecker(num, positions):
    """With 1 or 2 dense examples both factors are singular but for the damping."""
    rng = np.random.default_rng(num)
    fitted, u = layer(rng, num, positions), layer(rng, 6, positions)
    damping = 0.1
    a, d = moments_of(fitted)
    pi = np.sqrt((np.trace(a) / 4) / (np.trace(d) / 3))
    fisher = np.kron(
        a + pi * damping**0.5 * np.eye(4), d + damping**0.5 / pi * np.eye(3)
    )
    kfac = metric.kfac(damping=damping)
    state = jax.jit(kfac.fit)({"layer": fitted})
    whitened = kfac.whiten(state, {"layer": u})
    expected = kernel(vectors_of(u), fisher, vectors_of(u))
    assert_close(gram.gram(whitened, whitened, has_bias=False), expected)
    twice = kfac.whiten(state, whitened)["layer"]
    solved = np.linalg.solve(fisher, vectors_of(u).T).T
    assert_close(vectors_of(twice), solved)


def test_kronecker_of_no_error_at_all():
    """A model that is always sure has d = 0: finite, the damping split evenly."""
    fitted = Factors(jnp.ones((5, 2)), jnp.zeros((5, 3)))
    kfac = metric.kfac(damping=4.0)
    state = kfac.fit({"layer": fitted})["layer"]
    np.testing.assert_allclose(state.d, np.eye(3) / 2**0.5, rtol=1e-5)
    assert np.isfinite(state.a).all()


@pytest.mark.parametrize("positions", [(), (5,)])
@pytest.mark.parametrize("num", [1, 7, 40])
def test_eigenvalue_corrected(num, positions):
    rng = np.random.default_rng(num)
    fitted, u = layer(rng, num, positions), layer(rng, 6, positions)
    corrected = metric.eigenvalue_corrected(damping=0.1, batch_size=3)
    state = jax.jit(corrected.fit)({"layer": fitted})
    # Degenerate moments have many eigenbases, so the fitted one is checked to be one.
    q_a, q_d = (np.asarray(q, np.float64) for q in state["layer"][:2])
    for moment, q in zip(moments_of(fitted), (q_a, q_d), strict=True):
        assert_close(q.T @ q, np.eye(len(q)))
        rotated = q.T @ moment @ q
        assert_close(np.diag(np.diag(rotated)), rotated)
    q = np.kron(q_a, q_d)
    variances = np.square(vectors_of(fitted) @ q).mean(0)
    fisher = q @ np.diag(variances + 0.1) @ q.T
    whitened = corrected.whiten(state, {"layer": u})["layer"]
    expected = kernel(vectors_of(u), fisher, vectors_of(u))
    assert_close(whitened @ whitened.T, expected)


def test_eigenvalue_correction_is_nearer_to_the_fisher_matrix_than_kronecker():
    """Among all diagonals in that basis it is the nearest, so also to K-FAC's."""
    rng = np.random.default_rng(0)
    factors = layer(rng, 200)
    scale = np.abs(factors.a[:, :1])  # inputs and errors depend on one another
    factors = Factors(factors.a, factors.d * scale)
    u = vectors_of(factors)
    fisher = u.T @ u / len(u)
    state = metric.eigenvalue_corrected(damping=1e-6).fit({"layer": factors})["layer"]
    q = np.kron(state.a, state.d)
    corrected = q @ np.diag(state.scale.ravel()) @ q.T
    kronecker = np.kron(*moments_of(factors))

    def error(approximation):
        return np.linalg.norm(approximation - fisher)

    assert error(corrected) < 0.95 * error(kronecker)


@pytest.mark.parametrize(
    ("num", "rank"),
    [(100, None), (8, None), (7, None), (3, None), (1, None), (100, 2), (7, 2)],
)
def test_low_rank(num, rank):
    """More and fewer examples than dimensions, and rows of lower rank than both."""
    rng = np.random.default_rng(num)
    size = 8
    fitted, u = normal(rng, num, size), normal(rng, 5, size)
    if rank is not None:
        fitted = normal(rng, num, rank) @ normal(rng, rank, size)
    fisher = fitted.T.astype(np.float64) @ fitted / num + 0.01 * np.eye(size)
    low_rank = metric.low_rank(damping=0.01)
    state = jax.jit(low_rank.fit)(fitted)
    whitened = low_rank.whiten(state, u)
    assert_close(whitened @ whitened.T, kernel(u, fisher, u))
    twice = low_rank.whiten(state, whitened)
    assert_close(twice, np.linalg.solve(fisher, u.T).T)


def test_low_rank_by_the_woodbury_identity():
    """F^-1 = (I - S^T (N damping I + S S^T)^-1 S) / damping."""
    rng = np.random.default_rng(0)
    s, damping = normal(rng, 4, 20).astype(np.float64), 0.5
    inner = np.linalg.solve(4 * damping * np.eye(4) + s @ s.T, s)
    low_rank = metric.low_rank(damping=damping)
    state = low_rank.fit(jnp.asarray(s))
    twice = low_rank.whiten(state, low_rank.whiten(state, jnp.eye(20)))
    assert_close(twice, (np.eye(20) - s.T @ inner) / damping)


def test_low_rank_of_zeros_is_the_damping_alone():
    low_rank = metric.low_rank(damping=4.0)
    for num in (2, 5):
        whitened = low_rank.whiten(low_rank.fit(jnp.zeros((num, 3))), jnp.eye(3))
        np.testing.assert_allclose(whitened, np.eye(3) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        metric.diagonal,
        metric.kfac,
        metric.eigenvalue_corrected,
        metric.low_rank,
    ],
)
@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan")])
def test_refuses_damping_that_leaves_no_inverse(make, damping):
    with pytest.raises(ValueError, match="no inverse"):
        make(damping=damping)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_that_of_its_values_in_float32(dtype):
    rng = np.random.default_rng(0)
    narrow = jax.tree.map(lambda x: x.astype(dtype), layer(rng, 9, (5,)))
    dense = jax.tree.map(lambda x: x.astype(dtype), layer(rng, 9))
    layers = {"c": narrow, "d": dense}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), layers)
    for make in (metric.kfac, metric.eigenvalue_corrected, metric.diagonal):
        made = make(damping=0.5)
        found, expected = (made.whiten(made.fit(x), x) for x in (layers, wide))
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
        for u, v in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            u, v = (abs(x) for x in (u, v))  # eigenvectors have either sign
            np.testing.assert_allclose(u, v, rtol=1e-3, atol=1e-5)
    low_rank = metric.low_rank(damping=0.5)
    state = low_rank.fit(dense.a)
    assert low_rank.whiten(state, dense.a).dtype == jnp.float32


def test_low_rank_keeps_small_eigenvalues():
    """Of eigenvalues 1 and 1e-10, a second moment in float32 keeps one."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    rows = np.linalg.qr(rng.normal(size=(50, 6)))[0] * np.geomspace(1, 1e-5, 6) @ q.T
    fisher = rows.T @ rows / 50
    damping = 1e-13 * np.linalg.norm(fisher, 2) + 1e-13
    low_rank = metric.low_rank(damping=damping)
    u = q.T.astype(np.float32)
    whitened = low_rank.whiten(low_rank.fit(jnp.asarray(rows, jnp.float32)), u)
    found = np.asarray(whitened, np.float64) @ np.asarray(whitened, np.float64).T
    expected = kernel(u, fisher + damping * np.eye(6), u)
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=0.02)
