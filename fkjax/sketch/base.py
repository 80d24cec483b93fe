"""Random sketches of one leaf: from P values to K, preserving inner products.

A `Sketch` draws a random K x P matrix S for one leaf, that is, one parameter of P
values. `fkjax.sketch.projection.project` draws an independent sketch for each leaf of a
Fisher vector and adds the results. All functions take one example, and can be batched
by `vmap`.

The entries of every sketch have mean zero, and E[(S x)(S y)^T] = (<x, y> / K) I.
Therefore <S x, S y> has mean <x, y>, and a sum over leaves of independent sketches,
possibly of different kinds, is again such a sketch. The variances in the docstrings are
exact values, not bounds.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from fkjax.fisher.factors import weight_gradient

State = Any
"""The random numbers that a sketch has drawn: a pytree of arrays."""


class Sketch(NamedTuple):
    """A distribution of random K x P matrices S, for a leaf of any shape.

    Attributes:
        name: name of the factory.
        rank: number of rows, K.
        init: function `init(key, shape) -> state` for leaves of that shape.
        apply: function `apply(state, leaf) -> S x`, where x is the flattened leaf.
            Shape [K].
        apply_factors: function `apply_factors(state, a, d) -> S x` of a leaf
            sum_t a_t d_t^T given by its factors, a of shape [T, m] and d of shape
            [T, n]. The leaf is the matrix of shape [m, n], reshaped. A structured
            sketch that was drawn for a leaf of another matrix (all axes but the last
            merged) multiplies the factors out; `reshaped` avoids it.
        variance: function `variance(x, y) -> Var <S x, S y>` of two leaves. Shape [].
        cost: function `cost(t, m, n)` that estimates the cost of `apply_factors` for
            one example, approximately in nanoseconds on two cores. It is only meant to
            compare sketches.
    """

    name: str
    rank: int
    init: Callable[[jax.Array, tuple[int, ...]], State]
    apply: Callable[[State, jax.Array], jax.Array]
    apply_factors: Callable[[State, jax.Array, jax.Array], jax.Array]
    variance: Callable[[jax.Array, jax.Array], jax.Array]
    cost: Callable[[int, int, int], float]


# Nanoseconds, measured on two x86 cores, of an operation of a matrix product, of
# writing a value and reading it elsewhere, and of a butterfly of a Fourier transform.
MULTIPLY, TOUCH, BUTTERFLY = 0.01, 0.8, 0.1

# Embeddings are compared with each other, which needs full precision on accelerators.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
tensordot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def check_positive(**ranks: int) -> None:
    """Raises a ValueError if any of the ranks is below 1."""
    for name, value in ranks.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


# The draws have explicit types, so that JAX's 64-bit types do not change them.


def random_signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws signs, +1 or -1 with equal probability, in float32."""
    is_positive = jax.random.bernoulli(key, np.float32(0.5), shape)
    return jnp.where(is_positive, 1, -1).astype(jnp.float32)


def random_rows(key: jax.Array, shape: tuple[int, ...], num_rows: int) -> jax.Array:
    """Draws rows from 0 to `num_rows` - 1, in int32."""
    return jax.random.randint(key, shape, 0, num_rows, jnp.int32)


def random_order(key: jax.Array, size: int) -> jax.Array:
    """Draws a permutation, in int32. Shape [size]."""
    return jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))


def flat(leaf: jax.Array, size: int) -> jax.Array:
    """Returns a leaf as a vector. Shape [size] float32."""
    chex.assert_size(leaf, size)
    return leaf.reshape(size).astype(jnp.float32)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the shape of a leaf as a matrix, with all axes but the last merged."""
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def as_matrix(leaf: jax.Array, m: int, n: int) -> jax.Array:
    """Returns a leaf as a matrix. Shape [m, n] float32."""
    return flat(leaf, m * n).reshape(m, n)


def reshaped(sketch: Sketch, m: int, n: int) -> Sketch:
    """Returns the sketch of leaves that are used as matrices of another shape.

    A kernel of attention, for example, is stored as [d, heads, n], and multiplies as a
    matrix [d, heads n].

    >>> from fkjax.sketch import khatri_rao
    >>> sketch = reshaped(khatri_rao(rank=4), 6, 10)
    >>> u, v = sketch.init(jax.random.key(0), (6, 2, 5))
    >>> u.shape, v.shape
    ((6, 4), (10, 4))

    Args:
        sketch: sketch to draw for the matrices.
        m: number of rows of the matrices.
        n: number of columns of the matrices.

    Returns:
        The sketch, of leaves of any shape with m n values.
    """

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return sketch.variance(x.reshape(m, n), y.reshape(m, n))

    return sketch._replace(
        init=lambda key, shape: sketch.init(key, (m, n)), variance=variance
    )


def make_sketch(
    name: str,
    rank: int,
    init: Callable[[jax.Array, tuple[int, ...]], State],
    apply: Callable[[State, jax.Array], jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    cost_of_value: float = TOUCH,
) -> Sketch:
    """Creates a sketch that multiplies out the factors of a leaf."""

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        return apply(state, weight_gradient(a, d))

    def cost(t: int, m: int, n: int) -> float:
        return materialized_cost(t, m, n) + m * n * cost_of_value

    return Sketch(name, rank, init, apply, apply_factors, variance, cost)


def materialized_cost(t: int, m: int, n: int) -> float:
    """Returns the cost of multiplying out the factors, in nanoseconds."""
    return 2 * t * m * n * MULTIPLY


def batch_last(
    fn: Callable[[State, jax.Array], jax.Array],
) -> Callable[[State, jax.Array], jax.Array]:
    """Turns `fn(state, [P, N]) -> [K, N]` into a function of one [P] for `vmap`.

    Under `vmap`, the function is called once with all N examples as the last axis. On
    a CPU, this scatter-add of rows of N values was 7 times faster than the scatter of
    single values that `vmap` makes otherwise (100 examples, P = 16,000, K = 512: 13 us
    an example instead of 96). Sorting the rows first, a one-hot matrix product and a
    gather of [P, N] rows were slower (28, 125 and 130 us).
    """

    def rows(state: State, xs: jax.Array) -> jax.Array:
        return fn(state, xs.T).T

    batched = custom_vmap(rows)

    @batched.def_vmap
    def rule(axis_size: int, is_mapped: Any, state: State, xs: jax.Array):
        if is_mapped[1] and not any(jax.tree.leaves(is_mapped[0])):
            ys = batched(state, xs.reshape(-1, xs.shape[-1]))
            return ys.reshape(axis_size, -1, ys.shape[-1]), True
        axes = jax.tree.map(lambda mapped: 0 if mapped else None, tuple(is_mapped))
        return jax.vmap(rows, axes)(state, xs), True

    return lambda state, x: batched(state, x[None])[0]


def fraction(rank: int, size: int) -> float:
    """Returns 1 / K, corrected for drawing K of `size` rows without replacement."""
    return (size - rank) / (max(size - 1, 1) * rank)


def cross(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the sum over p != q of x_p^2 y_q^2 + x_p y_p x_q y_q."""
    squares = jnp.vdot(x**2, y**2)
    return jnp.vdot(x, x) * jnp.vdot(y, y) + jnp.vdot(x, y) ** 2 - 2 * squares
