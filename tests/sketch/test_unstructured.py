"""Sketches of a leaf as a vector, against their explicit matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.sketch import unstructured
from tests.sketches import SKETCHES, draw, matrix, primitives


@pytest.mark.parametrize("num_nonzeros", [1, 2, 4])
def test_count_sketch_has_one_entry_a_column_and_block(num_nonzeros):
    sketch = unstructured.count_sketch(rank=8, num_nonzeros=num_nonzeros)
    s = matrix(sketch, (50,))
    magnitude = num_nonzeros**-0.5
    assert set(np.unique(s)) == {-np.float32(magnitude), 0, np.float32(magnitude)}
    blocks = s.reshape(num_nonzeros, -1, 50)
    assert ((blocks != 0).sum(axis=1) == 1).all()


def test_balanced_fold_has_one_sign_a_column_and_equal_rows():
    s = matrix(unstructured.balanced_fold(rank=8), (40,))
    assert set(np.unique(s)) == {-1, 0, 1}
    assert ((s != 0).sum(axis=0) == 1).all()
    assert ((s != 0).sum(axis=1) == 5).all()


def test_balanced_fold_keeps_a_small_leaf():
    s = matrix(unstructured.balanced_fold(rank=8), (5,))
    np.testing.assert_array_equal(s.T @ s, np.eye(5))


def test_srht_is_rows_of_a_hadamard_matrix():
    s = matrix(unstructured.srht(rank=8), (4, 8)) * np.sqrt(8)
    np.testing.assert_allclose(abs(s), 1, rtol=1e-6)
    np.testing.assert_allclose(s @ s.T, 32 * np.eye(8), atol=1e-4)


def test_srht_of_a_small_leaf_keeps_every_row():
    s = matrix(unstructured.srht(rank=8), (5,))
    np.testing.assert_allclose(s.T @ s, np.eye(5), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 16, 64, 2048])
def test_the_walsh_hadamard_transform_is_its_matrix(size):
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    x = draw(0, size)
    np.testing.assert_allclose(unstructured._walsh_hadamard(x), h @ x, atol=1e-3)


def scatters(sketch):
    state = sketch.init(jax.random.key(0), (40,))
    traced = jax.jit(jax.vmap(sketch.apply, (None, 0))).trace(state, jnp.ones((6, 40)))
    return [
        equation.invars[2].aval.shape
        for equation in primitives(traced.jaxpr.jaxpr)
        if "scatter" in equation.primitive.name
    ]


def test_count_sketch_scatters_rows_of_examples():
    assert scatters(SKETCHES["count_sketch"]) == [(40, 6)]


def test_balanced_fold_scatters_nothing():
    assert scatters(SKETCHES["balanced_fold"]) == []


@pytest.mark.parametrize("num_nonzeros", [3, 16])
def test_nonzeros_must_divide_the_rank(num_nonzeros):
    with pytest.raises(ValueError, match=f"rank 8 and num_nonzeros {num_nonzeros}"):
        unstructured.count_sketch(rank=8, num_nonzeros=num_nonzeros)


def test_nonzeros_must_be_positive():
    with pytest.raises(ValueError, match="num_nonzeros must be 1 or more"):
        unstructured.count_sketch(rank=8, num_nonzeros=0)
