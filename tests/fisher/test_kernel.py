"""The Pearson kernel against NumPy's own correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.fisher import kernel


def correlation_kernel(a, b):
    return sum(np.corrcoef(a[n], b[n])[0, 1] * (len(a[n]) - 1) for n in a)


def random_blocks(rng, sizes=(10, 20, 50)):
    return {f"layer{n}": rng.normal(size=n).astype(np.float32) for n in sizes}


def test_inner_products_are_weighted_correlations():
    rng = np.random.default_rng(0)
    z, z2, g, g2 = (random_blocks(rng) for _ in range(4))
    r_z = kernel.pearson_features(z) @ kernel.pearson_features(z2)
    r_zg = kernel.pearson_features(z, g) @ kernel.pearson_features(z2, g2)
    np.testing.assert_allclose(r_z, correlation_kernel(z, z2), rtol=1e-4)
    expected = correlation_kernel(z, z2) + correlation_kernel(g, g2)
    np.testing.assert_allclose(r_zg, expected, rtol=1e-4)


def test_an_example_resembles_itself_most():
    z = random_blocks(np.random.default_rng(1))
    e = kernel.pearson_features(z)
    np.testing.assert_allclose(e @ e, (10 - 1) + (20 - 1) + (50 - 1), rtol=1e-5)


def test_scale_and_shift_of_a_block_do_not_matter():
    z = random_blocks(np.random.default_rng(2))
    moved = {name: 3 * block + 7 for name, block in z.items()}
    np.testing.assert_allclose(
        kernel.pearson_features(z), kernel.pearson_features(moved), atol=1e-4
    )


def test_a_constant_block_resembles_nothing():
    values = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    for length in (2, 3, 10, 100):  # of which some means are rounded
        blocks = jnp.broadcast_to(values, (50, length))
        found = jax.jit(jax.vmap(kernel.standardized))(blocks)
        np.testing.assert_array_equal(found, 0)
    assert jnp.isnan(kernel.standardized(jnp.full(3, jnp.inf))).all()


def test_a_block_of_one_value_is_refused():
    with pytest.raises(ValueError, match="2 or more"):
        kernel.standardized(jnp.ones(1))


def test_similarity_is_every_inner_product():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 6)), rng.normal(size=(5, 6))
    np.testing.assert_allclose(
        kernel.similarity(jnp.asarray(a), jnp.asarray(b)), a @ b.T, rtol=1e-5
    )
    np.testing.assert_allclose(
        kernel.similarity(jnp.asarray(a[0]), jnp.asarray(b)), b @ a[0], rtol=1e-5
    )


def test_low_precision_input_is_compared_in_float32():
    block = jax.random.normal(jax.random.key(0), (8,), jnp.bfloat16)
    assert kernel.standardized(block).dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e15, 1e25, 1e37])
def test_squares_that_overflow_do_not_matter(scale):
    z = jax.tree.map(jnp.asarray, random_blocks(np.random.default_rng(2)))
    huge = {name: jnp.float32(scale) * block for name, block in z.items()}
    np.testing.assert_allclose(
        kernel.pearson_features(huge), kernel.pearson_features(z), atol=1e-5
    )
    of_layer = kernel.last_layer("layer10", "layer20", 20)
    same = of_layer.embed(huge, huge)[11:]
    np.testing.assert_allclose(same, of_layer.embed(z, z)[11:], atol=1e-6)
