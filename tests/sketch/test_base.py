"""Sketches against their explicit matrices and their moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from fkjax.sketch import base as sketches
from fkjax.sketch import structured, unstructured
from tests.sketches import SHAPE, SKETCHES, assert_moments, draw, every_sketch, matrix

# Structure.


@every_sketch
@pytest.mark.parametrize("shape", [(), (7,), SHAPE])
def test_a_sketch_is_its_matrix(sketch, shape):
    x = draw(1, *shape)
    y = sketch.apply(sketch.init(jax.random.key(0), shape), x)
    assert y.shape == (sketch.rank,)
    np.testing.assert_allclose(y, matrix(sketch, shape) @ x.ravel(), atol=1e-5)


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


def test_kronecker_is_a_kronecker_product():
    sketch = SKETCHES["kronecker"]
    a, b = sketch.init(jax.random.key(0), SHAPE)
    np.testing.assert_allclose(matrix(sketch, SHAPE), np.kron(a.T, b.T), rtol=1e-6)


def test_khatri_rao_is_a_product_row_by_row():
    sketch = SKETCHES["khatri_rao"]
    u, v = sketch.init(jax.random.key(0), SHAPE)
    expected = [np.kron(u[:, r], v[:, r]) for r in range(4)]
    np.testing.assert_allclose(matrix(sketch, SHAPE), expected, rtol=1e-6)


@every_sketch
@settings(max_examples=20, deadline=None)
@given(scale=st.floats(-100, 100, width=32), seed=st.integers(0, 99))
def test_a_sketch_is_linear(sketch, scale, seed):
    state = sketch.init(jax.random.key(0), SHAPE)
    x, y = draw(seed, *SHAPE), draw(seed + 100, *SHAPE)
    np.testing.assert_allclose(
        sketch.apply(state, x + scale * y),
        sketch.apply(state, x) + scale * sketch.apply(state, y),
        atol=2e-5 * (1 + abs(scale)),
    )


# Moments.


@every_sketch
@pytest.mark.parametrize("related", [0.5, 1.0])
def test_inner_products_have_the_stated_mean_and_variance(sketch, related):
    x = draw(3, *SHAPE)
    y = related * x + (1 - related) * draw(4, *SHAPE)

    def product(key):
        state = sketch.init(key, SHAPE)
        return jnp.vdot(sketch.apply(state, x), sketch.apply(state, y))

    products = jax.jit(jax.vmap(product))(jax.random.split(jax.random.key(5), 10_000))
    assert_moments(products, float(jnp.vdot(x, y)), float(sketch.variance(x, y)))


@every_sketch
def test_embeddings_have_a_round_second_moment(sketch):
    """E[(S x)(S y)^T] = <x, y> I / K, on which sums over leaves rely."""
    x = jnp.zeros(SHAPE).at[0, 0, 0].set(2.0).at[1, 1, 2].set(1.0)
    y = draw(6, *SHAPE)

    def outer(key):
        state = sketch.init(key, SHAPE)
        return jnp.outer(sketch.apply(state, x), sketch.apply(state, y))

    outers = jax.jit(jax.vmap(outer))(jax.random.split(jax.random.key(7), 10_000))
    error = outers.std(axis=0) / np.sqrt(len(outers))
    expected = jnp.vdot(x, y) * jnp.eye(sketch.rank) / sketch.rank
    assert (abs(outers.mean(axis=0) - expected) <= 4.5 * error).all()


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


# Factors.


@pytest.mark.parametrize("kind", ["khatri_rao", "tensor_sketch"])
@pytest.mark.parametrize("positions", [1, 2, 400])
@pytest.mark.parametrize("rank", [64, 63])
def test_large_factors_are_not_multiplied_out(kind, positions, rank):
    """Unless there are so many positions that their sum is smaller."""
    sketch = getattr(sketches, kind)(rank=rank)
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


@every_sketch
@pytest.mark.parametrize("positions", [1, 5, 100])
def test_factors_give_the_sketch_of_their_product(sketch, positions):
    a, d = draw(0, positions, 4), draw(1, positions, 3)
    state = sketch.init(jax.random.key(0), SHAPE)
    np.testing.assert_allclose(
        sketch.apply_factors(state, a, d),
        sketch.apply(state, (a.T @ d).reshape(SHAPE)),
        rtol=1e-4,
        atol=1e-4,
    )


# Batches.


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


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


@pytest.mark.parametrize("name", ["gaussian", "balanced_fold", "srht", "khatri_rao"])
def test_a_sketch_can_be_differentiated(name):
    """Its transpose is S^T, for one example and for a batch."""
    sketch = SKETCHES[name]
    state = sketch.init(jax.random.key(0), SHAPE)
    xs, weights = draw(0, 5, *SHAPE), draw(1, 4)
    gradient = jax.grad(lambda x: jnp.vdot(weights, sketch.apply(state, x)))
    expected = (matrix(sketch, SHAPE).T @ weights).reshape(SHAPE)
    np.testing.assert_allclose(gradient(xs[0]), expected, atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(gradient)(xs), np.stack([expected] * 5), atol=1e-5
    )


@every_sketch
def test_embeddings_are_float32(sketch):
    state = sketch.init(jax.random.key(0), SHAPE)
    x = draw(0, *SHAPE).astype(jnp.bfloat16)
    y = sketch.apply(state, x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, sketch.apply(state, x.astype(jnp.float32)))


# Errors.


@pytest.mark.parametrize(
    "factory",
    [
        unstructured.gaussian,
        unstructured.rademacher,
        unstructured.count_sketch,
        unstructured.balanced_fold,
        unstructured.srht,
        structured.khatri_rao,
        structured.tensor_sketch,
    ],
)
@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_must_be_positive(factory, rank):
    with pytest.raises(ValueError, match=f"rank must be 1 or more, got {rank}"):
        factory(rank=rank)


def test_both_ranks_of_kronecker_must_be_positive():
    with pytest.raises(ValueError, match="column_rank must be 1 or more, got 0"):
        structured.kronecker(row_rank=3, column_rank=0)
    with pytest.raises(ValueError, match="row_rank must be 1 or more, got 0"):
        structured.kronecker(row_rank=0, column_rank=3)


@pytest.mark.parametrize("num_nonzeros", [3, 16])
def test_nonzeros_must_divide_the_rank(num_nonzeros):
    with pytest.raises(ValueError, match=f"rank 8 and num_nonzeros {num_nonzeros}"):
        unstructured.count_sketch(rank=8, num_nonzeros=num_nonzeros)


def test_nonzeros_must_be_positive():
    with pytest.raises(ValueError, match="num_nonzeros must be 1 or more"):
        unstructured.count_sketch(rank=8, num_nonzeros=0)


@every_sketch
def test_a_leaf_must_have_the_size_that_was_drawn_for(sketch):
    state = sketch.init(jax.random.key(0), SHAPE)
    with pytest.raises(AssertionError):
        sketch.apply(state, jnp.ones((2, 2, 4)))
