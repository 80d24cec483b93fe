"""Gram matrices by factors against the per-example gradients that they avoid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.fisher import gram
from fkjax.fisher.factors import Factors
from fkjax.fisher.vectors import fisher_vectors


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def explicit_gram(first, second, has_bias):
    """By the weights' gradients, in a Python loop and float64."""

    def vectors(factors):
        a, d = (np.asarray(x, np.float64) for x in factors)
        if a.ndim == 2:
            a, d = a[:, None], d[:, None]
        if has_bias:
            a = np.concatenate([a, np.ones((*a.shape[:2], 1))], axis=2)
        return np.array(
            [
                sum(np.outer(*pair) for pair in zip(*x, strict=True)).ravel()
                for x in zip(a, d, strict=True)
            ]
        )

    return vectors(first) @ vectors(second).T


def layer(rng, num, positions=(), m=5, n=3):
    return Factors(normal(rng, num, *positions, m), normal(rng, num, *positions, n))


@pytest.mark.parametrize("has_bias", [False, True])
def test_product_kernel_is_the_inner_product_of_outer_products(has_bias):
    rng = np.random.default_rng(0)
    first, second = layer(rng, 7), layer(rng, 4)
    found = gram.product_gram(*first, *second, has_bias=has_bias)
    expected = explicit_gram(first, second, has_bias)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_convolutions_in_any_chunks(has_bias, chunk_size):
    rng = np.random.default_rng(1)
    first, second = layer(rng, 7, (6,)), layer(rng, 5, (6,))
    found = gram.convolution_gram(
        *first, *second, has_bias=has_bias, chunk_size=chunk_size
    )
    expected = explicit_gram(first, second, has_bias)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_network_against_the_fisher_vectors_of_its_weights():
    """Two dense layers: the errors by hand, the whole by automatic differentiation."""
    rng = np.random.default_rng(2)
    theta = {
        "hidden": (normal(rng, 4, 6), normal(rng, 6)),
        "logits": (normal(rng, 6, 3), normal(rng, 3)),
    }
    xs, labels = normal(rng, 8, 4), jnp.asarray(rng.integers(0, 3, 8))

    def log_probs(theta, x):
        weight, bias = theta["hidden"]
        h = jnp.tanh(x @ weight + bias)
        weight, bias = theta["logits"]
        return jax.nn.log_softmax(h @ weight + bias)

    u = jax.vmap(
        lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
    )(fisher_vectors(log_probs, theta, jnp.asarray(xs), labels))
    hidden = np.tanh(xs @ theta["hidden"][0] + theta["hidden"][1])
    p = jax.nn.softmax(hidden @ theta["logits"][0] + theta["logits"][1])
    error = jax.nn.one_hot(labels, 3) - p
    layers = {
        "hidden": Factors(xs, (error @ theta["logits"][0].T) * (1 - hidden**2)),
        "logits": Factors(hidden, error),
    }
    found = gram.gram(layers, layers, has_bias=True)
    np.testing.assert_allclose(found, u @ u.T, rtol=1e-4, atol=1e-5)


def test_sums_over_dense_convolutional_and_sketched_layers():
    rng = np.random.default_rng(3)
    first, second = (
        {
            "dense": layer(rng, num),
            "convolution": layer(rng, num, (4,)),
            "sketch": normal(rng, num, 8),
        }
        for num in (6, 5)
    )
    found = jax.jit(lambda a, b: gram.gram(a, b, has_bias=True))(first, second)
    expected = first["sketch"] @ second["sketch"].T + sum(
        explicit_gram(first[name], second[name], True)
        for name in ("dense", "convolution")
    )
    assert found.shape == (6, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_gram_is_symmetric_and_has_no_negative_eigenvalue():
    rng = np.random.default_rng(4)
    layers = {"dense": layer(rng, 12), "convolution": layer(rng, 12, (3,))}
    found = np.asarray(gram.gram(layers, layers, has_bias=False))
    np.testing.assert_allclose(found, found.T, rtol=1e-5, atol=1e-5)
    assert np.linalg.eigvalsh(found).min() > -1e-4


def test_a_convolution_holds_no_gradients_of_all_examples():
    first = Factors(jnp.zeros((2000, 4, 50)), jnp.zeros((2000, 4, 40)))
    compiled = (
        jax.jit(lambda f: gram.convolution_gram(*f, *f, has_bias=False, chunk_size=20))
        .lower(first)
        .compile()
    )
    all_gradients = 2000 * 50 * 40 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 2000**2 * 4 + 4e6
    assert compiled.memory_analysis().temp_size_in_bytes < all_gradients * 2.5


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4), (2, 5), (3, 4), (3, 5)), "one layer"),
        (((3, 4), (3, 5), (3, 6), (3, 5)), "one layer"),
        (((3, 2, 4), (3, 2, 5), (3, 2, 4), (3, 2, 5)), "one layer"),
    ],
)
def test_product_gram_refuses_what_is_not_one_dense_layer(shapes, message):
    with pytest.raises(ValueError, match=message):
        gram.product_gram(*map(jnp.zeros, shapes), has_bias=True)


def test_convolution_gram_refuses_dense_factors_and_no_chunk():
    dense = Factors(jnp.zeros((3, 4)), jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="T, m"):
        gram.convolution_gram(*dense, *dense, has_bias=True)
    convolution = Factors(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2, 5)))
    with pytest.raises(ValueError, match="chunk_size"):
        gram.convolution_gram(*convolution, *convolution, has_bias=True, chunk_size=0)


def test_gram_refuses_layers_that_do_not_correspond():
    dense = Factors(jnp.zeros((3, 4)), jnp.zeros((3, 5)))
    for other in ({}, {"b": dense}):
        with pytest.raises(ValueError, match="same layers"):
            gram.gram({"a": dense}, other, has_bias=True)
    with pytest.raises(ValueError, match="one side only"):
        gram.gram({"a": dense}, {"a": jnp.zeros((3, 20))}, has_bias=True)
