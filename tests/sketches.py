"""One sketch of each kind, and what the tests of sketches and projections share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from fkjax.sketch import structured, unstructured

SKETCHES = {
    "gaussian": unstructured.gaussian(rank=4),
    "rademacher": unstructured.rademacher(rank=4),
    "count_sketch": unstructured.count_sketch(rank=4),
    "count_sketch of 2": unstructured.count_sketch(rank=4, num_nonzeros=2),
    "balanced_fold": unstructured.balanced_fold(rank=4),
    "srht": unstructured.srht(rank=4),
    "kronecker": structured.kronecker(row_rank=2, column_rank=2),
    "khatri_rao": structured.khatri_rao(rank=4),
    "tensor_sketch": structured.tensor_sketch(rank=4),
    "tensor_sketch, odd rank": structured.tensor_sketch(rank=5),
}
SHAPE = (2, 2, 3)  # as a convolution's kernel: a matrix [4, 3]

every_sketch = pytest.mark.parametrize(
    "sketch", [pytest.param(sketch, id=name) for name, sketch in SKETCHES.items()]
)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def example(vectors, i):
    return jax.tree.map(lambda v: v[i], vectors)


def matrix(sketch, shape, seed=0):
    """S [K, P], column by column."""
    size = math.prod(shape)

    @jax.jit
    def columns(units):
        state = sketch.init(jax.random.key(seed), shape)
        return jax.vmap(lambda e: sketch.apply(state, e))(units)

    units = np.eye(size, dtype=np.float32).reshape(size, *shape)
    return np.asarray(columns(units)).T


def assert_moments(products, mean, variance):
    """That samples have this mean (3 standard errors) and variance (4)."""
    products = np.asarray(products, np.float64)
    n = len(products)
    assert abs(products.mean() - mean) <= 3 * np.sqrt(variance / n) + 1e-5
    deviations = (products - products.mean()) ** 2
    error = deviations.std() / np.sqrt(n)
    assert abs(deviations.mean() - variance) <= 4 * error + 1e-5


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)
