"""Sketches of a leaf as a matrix, which never multiply its factors out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.sketch import structured, unstructured
from tests.sketches import SHAPE, SKETCHES, draw, matrix, primitives


def test_kronecker_is_a_kronecker_product():
    sketch = SKETCHES["kronecker"]
    a, b = sketch.init(jax.random.key(0), SHAPE)
    np.testing.assert_allclose(matrix(sketch, SHAPE), np.kron(a.T, b.T), rtol=1e-6)


def test_khatri_rao_is_a_product_row_by_row():
    sketch = SKETCHES["khatri_rao"]
    u, v = sketch.init(jax.random.key(0), SHAPE)
    expected = [np.kron(u[:, r], v[:, r]) for r in range(4)]
    np.testing.assert_allclose(matrix(sketch, SHAPE), expected, rtol=1e-6)


def test_rank_one_leaves_have_the_kronecker_variance_of_the_docs():
    sketch = structured.kronecker(row_rank=3, column_rank=5)
    (a, a2), (d, d2) = draw(0, 2, 6), draw(1, 2, 4)
    v_a = unstructured.rademacher(rank=3).variance(a, a2)
    v_d = unstructured.rademacher(rank=5).variance(d, d2)
    aa, dd = jnp.vdot(a, a2), jnp.vdot(d, d2)
    np.testing.assert_allclose(
        sketch.variance(jnp.outer(a, d), jnp.outer(a2, d2)),
        (v_a + aa**2) * (v_d + dd**2) - (aa * dd) ** 2,
        rtol=1e-4,
    )


@pytest.mark.parametrize("kind", ["khatri_rao", "tensor_sketch"])
@pytest.mark.parametrize("positions", [1, 2, 400])
@pytest.mark.parametrize("rank", [64, 63])
def test_large_factors_are_not_multiplied_out(kind, positions, rank):
    """Unless there are so many positions that their sum is smaller."""
    sketch = getattr(structured, kind)(rank=rank)
    a, d = draw(0, 3, positions, 40), draw(1, 3, positions, 30)
    state = sketch.init(jax.random.key(0), (40, 30))
    apply = jax.vmap(sketch.apply_factors, (None, 0, 0))
    expected = jax.vmap(sketch.apply, (None, 0))(
        state, jnp.einsum("etm,etn->emn", a, d)
    )
    np.testing.assert_allclose(apply(state, a, d), expected, rtol=1e-4, atol=1e-3)
    shapes = [
        variable.aval.shape
        for equation in primitives(jax.make_jaxpr(apply)(state, a, d).jaxpr)
        for variable in equation.outvars
    ]
    assert ((3, 40, 30) in shapes) == (positions == 400)


def test_both_ranks_of_kronecker_must_be_positive():
    with pytest.raises(ValueError, match="column_rank must be 1 or more, got 0"):
        structured.kronecker(row_rank=3, column_rank=0)
    with pytest.raises(ValueError, match="row_rank must be 1 or more, got 0"):
        structured.kronecker(row_rank=0, column_rank=3)
