"""Sketches against their explicit matrices and their moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


# Factors.


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


@every_sketch
def test_a_leaf_must_have_the_size_that_was_drawn_for(sketch):
    state = sketch.init(jax.random.key(0), SHAPE)
    with pytest.raises(AssertionError):
        sketch.apply(state, jnp.ones((2, 2, 4)))


@every_sketch
def test_draws_do_not_depend_on_64_bit_types(sketch):
    def draws():
        return jax.tree.map(np.asarray, sketch.init(jax.random.key(0), SHAPE))

    narrow = draws()
    with jax.enable_x64(True):
        jax.tree.map(np.testing.assert_array_equal, draws(), narrow)
