"""Compares the streamed search with `lax.top_k` on the matrix of all similarities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax.acquisition.neighbors import top_k_streamed


@functools.partial(jax.jit, static_argnames="k")
def whole(queries, pool, k, mask=None):
    similarities = jnp.matmul(queries, pool.T, precision=jax.lax.Precision.HIGHEST)
    if mask is not None:
        similarities = jnp.where(mask, similarities, -jnp.inf)
    similarities, indices = jax.lax.top_k(similarities, k)
    return similarities, jnp.where(similarities > -jnp.inf, indices, -1)


def rows(rng, *shape, levels):
    """Small integers, whose inner products are exact and have many ties."""
    return jnp.asarray(rng.integers(0, levels, size=shape).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    # Few sizes, so that few programs are compiled.
    st.sampled_from([1, 20, 33]),
    st.sampled_from([1, 7]),
    st.sampled_from([1, 8, 100]),
    st.sampled_from([1, 2, 5]),
)
def test_agrees_with_the_whole_matrix_and_breaks_ties_alike(
    seed, num_pool, k, chunk_size, levels
):
    k = min(k, num_pool)
    rng = np.random.default_rng(seed)
    queries, pool = (rows(rng, n, 3, levels=levels) for n in (4, num_pool))
    mask = jnp.asarray(rng.random(num_pool) < 0.6)
    for m in (jnp.ones(num_pool, bool), mask):
        found = top_k_streamed(queries, pool, k=k, mask=m, chunk_size=chunk_size)
        np.testing.assert_array_equal(found, whole(queries, pool, k, m))


@pytest.mark.parametrize("levels", [2, 1000])
@pytest.mark.parametrize("num_pool", [1024, 2500])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_agrees_where_chunks_are_searched_by_groups(num_pool, k, levels):
    rng = np.random.default_rng(num_pool + k)
    queries, pool = (rows(rng, n, 4, levels=levels) for n in (5, num_pool))
    found = top_k_streamed(queries, pool, k=k, chunk_size=384)
    np.testing.assert_array_equal(found, whole(queries, pool, k))


def test_real_rows_at_the_default_chunk():
    rng = np.random.default_rng(0)
    queries, pool = (
        jnp.asarray(rng.normal(size=(n, 16)).astype(np.float32)) for n in (3, 40_000)
    )
    similarities, indices = top_k_streamed(queries, pool, k=20)
    expected, expected_indices = whole(queries, pool, 20)
    np.testing.assert_allclose(similarities, expected, rtol=1e-5)
    np.testing.assert_array_equal(indices, expected_indices)


@pytest.mark.parametrize("levels", [2, 1000])
def test_continues_after_what_is_known(levels):
    rng = np.random.default_rng(levels)
    queries, pool = (rows(rng, n, 4, levels=levels) for n in (5, 700))
    mask = jnp.asarray(rng.random(700) < 0.5)
    expected = whole(queries, pool, 12, mask)
    after, parts = None, []
    for _ in range(3):
        parts.append(
            top_k_streamed(queries, pool, k=4, mask=mask, after=after, chunk_size=96)
        )
        after = tuple(x[:, -1] for x in parts[-1])
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), expected)


def test_nothing_is_left_after_the_last():
    pool = jnp.arange(4.0)[:, None]
    after = (jnp.zeros(1), jnp.zeros(1, jnp.int32))
    similarities, indices = top_k_streamed(jnp.ones((1, 1)), pool, k=2, after=after)
    assert similarities.tolist() == [[-jnp.inf, -jnp.inf]]
    assert indices.tolist() == [[-1, -1]]


def test_zeros_of_both_signs_are_equal():
    pool = jnp.array([[1.0], [-1.0], [1.0]])  # products with -0.0: -0.0, 0.0, -0.0
    after, order = None, []
    for _ in range(3):
        after = top_k_streamed(jnp.array([[-0.0]]), pool, k=1, after=after)
        after = tuple(x[:, -1] for x in after)
        order.append(int(after[1][0]))
    assert order == [0, 1, 2]


def test_never_holds_all_similarities():
    queries, pool = jnp.zeros((100, 2)), jnp.zeros((50_000, 2))
    compiled = (
        jax.jit(lambda q, p: top_k_streamed(q, p, k=4, chunk_size=1024))
        .lower(queries, pool)
        .compile()
    )
    held = compiled.memory_analysis().temp_size_in_bytes
    assert held < 100 * 50_000 * 4 / 5


@pytest.mark.parametrize(
    ("pool_shape", "options", "message"),
    [
        ((5, 3), {"k": 2}, "the same length"),
        ((5, 2), {"k": 6}, "from 1 to 5, the number of rows"),
        ((5, 2), {"k": 0}, "from 1 to 5, the number of rows"),
        ((5, 2), {"k": 1, "chunk_size": 0}, "1 or more"),
        ((5, 2), {"k": 1, "mask": jnp.ones(4, bool)}, "each pool row"),
    ],
)
def test_refuses_what_cannot_be(pool_shape, options, message):
    with pytest.raises(ValueError, match=message):
        top_k_streamed(jnp.zeros((1, 2)), jnp.zeros(pool_shape), **options)


def test_rows_of_nan_and_of_minus_infinity_are_no_neighbors():
    pool = jnp.array([[1.0], [jnp.nan], [-jnp.inf], [jnp.inf], [2.0]])
    for chunk_size in (1, 100):
        similarities, indices = top_k_streamed(
            jnp.ones((1, 1)), pool, k=5, chunk_size=chunk_size
        )
        assert indices.tolist() == [[3, 4, 0, -1, -1]]
        assert similarities.tolist() == [[jnp.inf, 2, 1, -jnp.inf, -jnp.inf]]


@pytest.mark.parametrize("queries", ["bfloat16", "float32"])
@pytest.mark.parametrize("pool", ["bfloat16", "float16", "int8"])
def test_narrow_rows_are_compared_in_float32(queries, pool):
    rng = np.random.default_rng(0)
    q, p = rows(rng, 4, 3, levels=9).astype(queries), rows(rng, 33, 3, levels=9)
    found = top_k_streamed(q, p.astype(pool), k=7, chunk_size=8)
    np.testing.assert_array_equal(found, whole(q.astype(jnp.float32), p, 7))
    assert found[0].dtype == jnp.float32


def test_a_pool_in_bfloat16_is_converted_by_chunk():
    queries = jnp.zeros((8, 16), jnp.bfloat16)
    pool = jax.ShapeDtypeStruct((100_000, 16), jnp.bfloat16)
    compiled = (
        jax.jit(lambda q, p: top_k_streamed(q, p, k=4, chunk_size=1024))
        .lower(queries, pool)
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 100_000 * 16 * 2 / 4
