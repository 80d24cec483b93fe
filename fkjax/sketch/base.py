"""Random sketches of one leaf: K numbers that keep inner products of P.

A `Sketch` draws a random K x P matrix S for one leaf (one parameter, of P values).
`fkjax.sketch.projection.project` gives every leaf of a Fisher vector its own and adds
the results. All of it is written for one example, to be batched by `vmap`.

Every sketch has entries of mean zero and E[(S x)(S y)^T] = (<x, y> / K) I. Therefore
<S x, S y> has mean <x, y>, and a sum over leaves of independent sketches, each of
its own kind, is again such a sketch. The variances below are exact, not bounds.

The factories take the rank K, and raise ValueError unless it is positive.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from fkjax.fisher.factors import weight_gradient

State = Any
"""What a sketch has drawn: a pytree of arrays."""


class Sketch(NamedTuple):
    """A distribution of random K x P matrices S, for one leaf of any shape.

    Attributes:
        name: of the factory.
        rank: K.
        init: `init(key, shape) -> state`, for leaves of that shape.
        apply: `apply(state, leaf) -> S x`, x the flattened leaf. Shape [K].
        apply_factors: `apply_factors(state, a, d)`: the same of sum_t a_t d_t^T, for
            a of shape [T, m], d of shape [T, n] and leaves that are [m, n] when
            all axes but the last are merged.
        variance: `variance(x, y) -> Var <S x, S y>` for two leaves. Shape [].
        cost: `cost(t, m, n)`: of `apply_factors`, an example, about in nanoseconds on
            two cores. Only a ratio of two means anything.
    """

    name: str
    rank: int
    init: Callable[[jax.Array, tuple[int, ...]], State]
    apply: Callable[[State, jax.Array], jax.Array]
    apply_factors: Callable[[State, jax.Array, jax.Array], jax.Array]
    variance: Callable[[jax.Array, jax.Array], jax.Array]
    cost: Callable[[int, int, int], float]


# Measured on two x86 cores: an operation of a matrix product, a value that is written
# and then read somewhere else, and a butterfly of a Fourier transform, in nanoseconds.
MULTIPLY, TOUCH, BUTTERFLY = 0.01, 0.8, 0.1

# Embeddings are compared with each other: no reduced precision on accelerators.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
tensordot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def check_positive(**ranks: int) -> None:
    """Raises ValueError if a rank is below 1."""
    for name, value in ranks.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def flat(leaf: jax.Array, size: int) -> jax.Array:
    """Returns a leaf as a vector. Shape [size] float32."""
    chex.assert_size(leaf, size)
    return leaf.reshape(size).astype(jnp.float32)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the rows and columns of a leaf: all axes but the last, and the last."""
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def as_matrix(leaf: jax.Array, m: int, n: int) -> jax.Array:
    """Returns a leaf as a matrix. Shape [m, n] float32."""
    return flat(leaf, m * n).reshape(m, n)


def make_sketch(
    name: str,
    rank: int,
    init: Callable[[jax.Array, tuple[int, ...]], State],
    apply: Callable[[State, jax.Array], jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    cost_of_value: float = TOUCH,
) -> Sketch:
    """A sketch with no short cut for factors: they are multiplied out."""

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        return apply(state, weight_gradient(a, d))

    def cost(t: int, m: int, n: int) -> float:
        return materialized_cost(t, m, n) + m * n * cost_of_value

    return Sketch(name, rank, init, apply, apply_factors, variance, cost)


def materialized_cost(t: int, m: int, n: int) -> float:
    """Returns the nanoseconds of multiplying the factors out."""
    return 2 * t * m * n * MULTIPLY


def batch_last(
    fn: Callable[[State, jax.Array], jax.Array],
) -> Callable[[State, jax.Array], jax.Array]:
    """Makes `fn(state, [P, N]) -> [K, N]` a function of one [P] that `vmap` batches.

    A scatter-add of rows of N examples was 7 times faster on a CPU than the scatter
    of single values that `vmap` would make of it (100 examples, P = 16,000, K = 512:
    13 us an example against 96). Sorting the rows first, a one-hot matrix product
    and a gather of [P, N] rows were slower (28, 125 and 130 us).
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
    """1 / K, corrected for K rows without replacement out of a population."""
    return (size - rank) / (max(size - 1, 1) * rank)


def cross(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over p != q of x_p^2 y_q^2 + x_p y_p x_q y_q."""
    squares = jnp.vdot(x**2, y**2)
    return jnp.vdot(x, x) * jnp.vdot(y, y) + jnp.vdot(x, y) ** 2 - 2 * squares
