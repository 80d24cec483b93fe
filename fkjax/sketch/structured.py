"""Sketches of a matrix from its factors, without multiplying these out."""

import itertools
import math

import jax
import jax.numpy as jnp

from fkjax.fisher.factors import weight_gradient
from fkjax.sketch.base import (
    BUTTERFLY,
    MULTIPLY,
    TOUCH,
    Sketch,
    State,
    as_matrix,
    batch_last,
    check_positive,
    einsum,
    flat,
    materialized_cost,
    matmul,
    matrix_shape,
)


def kronecker(*, row_rank: int, column_rank: int) -> Sketch:
    """A^T X B for a leaf X [m, n], with entries of A and B +-1 / sqrt of their rank.

    K = row_rank * column_rank. Cheap, but coarse: for X = a d^T and Y = a' d'^T the
    variance is (v_a + <a, a'>^2)(v_d + <d, d'>^2) - <X, Y>^2, where v_a and v_d are
    those of `rademacher` at row_rank and column_rank.

    Source: Choe et al. 2024 (LoGra).

    >>> sketch = kronecker(row_rank=4, column_rank=2)
    >>> sketch.apply(sketch.init(jax.random.key(0), (9, 5)), jnp.ones((9, 5))).shape
    (8,)

    Args:
        row_rank: columns of A, which has m rows.
        column_rank: columns of B, which has n rows.
    """
    check_positive(row_rank=row_rank, column_rank=column_rank)
    rank = row_rank * column_rank

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        m, n = matrix_shape(shape)
        a_key, b_key = jax.random.split(key)
        a = jax.random.rademacher(a_key, (m, row_rank), jnp.float32)
        b = jax.random.rademacher(b_key, (n, column_rank), jnp.float32)
        return a / row_rank**0.5, b / column_rank**0.5

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        a, b = state
        return matmul(matmul(a.T, as_matrix(leaf, len(a), len(b))), b).reshape(rank)

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        rows, columns = matmul(a, state[0]), matmul(d, state[1])
        return matmul(rows.T, columns).reshape(rank)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _kronecker_variance(x, y, row_rank, column_rank)

    def cost(t: int, m: int, n: int) -> float:
        return 2 * t * (m * row_rank + n * column_rank + rank) * MULTIPLY

    return Sketch("kronecker", rank, init, apply, apply_factors, variance, cost)


def khatri_rao(*, rank: int) -> Sketch:
    """u_r^T X v_r / sqrt K in row r for a leaf X [m, n]; u_r, v_r are random signs.

    For X = a d^T it is (u_r . a)(v_r . d) / sqrt K, which needs no m x n numbers.
    The variance is 1 / K times that of `kronecker` with ranks 1 and 1: up to
    8 |x|^2 |y|^2 / K where `rademacher` has 2.

    Source: Rakhshan & Rabusseau 2020 (CP-structured projections).

    >>> sketch = khatri_rao(rank=4)
    >>> state = sketch.init(jax.random.key(0), (9, 5))
    >>> sketch.apply_factors(state, jnp.ones((1, 9)), jnp.ones((1, 5))).shape
    (4,)
    """
    check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        m, n = matrix_shape(shape)
        u_key, v_key = jax.random.split(key)
        u = jax.random.rademacher(u_key, (m, rank), jnp.float32)
        v = jax.random.rademacher(v_key, (n, rank), jnp.float32)
        return u / rank**0.5, v

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        u, v = state
        return (matmul(as_matrix(leaf, len(u), len(v)).T, u) * v).sum(axis=0)

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        (t, m), n = a.shape, d.shape[1]
        if summed(t, m, n) < factored(t, m, n):
            return apply(state, weight_gradient(a, d))
        return (matmul(a, state[0]) * matmul(d, state[1])).sum(axis=0)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _kronecker_variance(x, y, 1, 1) / rank

    def factored(t: int, m: int, n: int) -> float:
        return 2 * t * rank * (m + n) * MULTIPLY

    def summed(t: int, m: int, n: int) -> float:
        return materialized_cost(t, m, n) + 2 * rank * m * n * MULTIPLY

    def cost(t: int, m: int, n: int) -> float:
        return min(factored(t, m, n), summed(t, m, n))

    return Sketch("khatri_rao", rank, init, apply, apply_factors, variance, cost)


def tensor_sketch(*, rank: int) -> Sketch:
    """Count sketch whose row for entry (i, j) of a leaf [m, n] is h(i) + h'(j) mod K.

    Its sign is s(i) s'(j). For X = a d^T it is the circular convolution of the count
    sketches of a and of d, by FFT: no m x n numbers, and m + n + K log K steps. For X
    and Y of rank one the variance is up to 6 |x|^2 |y|^2 / K for large K, where
    `count_sketch` has 2 and `khatri_rao` 8.

    Source: Pham & Pagh 2013.

    >>> sketch = tensor_sketch(rank=4)
    >>> state = sketch.init(jax.random.key(0), (9, 5))
    >>> sketch.apply_factors(state, jnp.ones((1, 9)), jnp.ones((1, 5))).shape
    (4,)
    """
    check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        keys = jax.random.split(key)
        return tuple(map(hashed, keys, matrix_shape(shape)))

    def hashed(key: jax.Array, size: int) -> State:
        row_key, sign_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (size,), 0, rank)
        return rows, jax.random.rademacher(sign_key, (size,), jnp.float32)

    def add(state: State, x: jax.Array) -> jax.Array:
        rows, signs = state
        return jax.ops.segment_sum(signs[:, None] * x, rows, rank)

    count = batch_last(add)

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        (rows_a, signs_a), (rows_d, signs_d) = state
        rows = (rows_a[:, None] + rows_d) % rank
        signs = signs_a[:, None] * signs_d
        return count((rows.ravel(), signs.ravel()), flat(leaf, rows.size))

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        (t, m), n = a.shape, d.shape[1]
        if summed(t, m, n) < factored(t, m, n):
            return apply(state, weight_gradient(a, d))
        spectra = [
            jnp.fft.rfft(jax.vmap(count, (None, 0))(side, x.astype(jnp.float32)))
            for side, x in zip(state, (a, d), strict=True)
        ]
        return jnp.fft.irfft((spectra[0] * spectra[1]).sum(axis=0), rank)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _tensor_sketch_variance(x, y, rank)

    def factored(t: int, m: int, n: int) -> float:
        transform = rank * math.log2(2 * rank) * BUTTERFLY
        return t * (m + n) * TOUCH + (2 * t + 1) * transform

    def summed(t: int, m: int, n: int) -> float:
        return materialized_cost(t, m, n) + m * n * TOUCH

    def cost(t: int, m: int, n: int) -> float:
        return min(factored(t, m, n), summed(t, m, n))

    return Sketch("tensor_sketch", rank, init, apply, apply_factors, variance, cost)


def _kronecker_variance(
    x: jax.Array, y: jax.Array, row_rank: int, column_rank: int
) -> jax.Array:
    """Var <A^T X B, A^T Y B> for matrices A, B of random signs.

    With P = A A^T, E[P_ij P_kl] is d_ij d_kl + (d_ik d_jl + d_il d_jk - 2 d_ijkl) / k,
    and so for B: these are all ways to contract the indices of X, Y, X and Y.
    """
    m, n = matrix_shape(x.shape)
    x, y = x.reshape(m, n), y.reshape(m, n)

    def terms(letters: str, rank: int) -> list[tuple[str, float]]:
        a, b = letters
        ways = a + a + b + b, a + b + a + b, a + b + b + a, a * 4
        return list(zip(ways, (1, 1 / rank, 1 / rank, -2 / rank), strict=True))

    both = list(itertools.product(terms("ab", row_rank), terms("cd", column_rank)))
    total = jnp.zeros(())
    for (rows, row_weight), (columns, column_weight) in both[1:]:  # 0 is <X, Y>^2
        indices = ",".join(r + c for r, c in zip(rows, columns, strict=True))
        term = einsum(f"{indices}->", x, y, x, y, optimize=True)
        total += row_weight * column_weight * term
    return total


def _tensor_sketch_variance(x: jax.Array, y: jax.Array, rank: int) -> jax.Array:
    """Sums over the pairs of entries (i, j) != (k, l) of X_ij Y_kl and their partners.

    Such a pair meets in one row with probability 1 / K. Signs leave its square, its
    product with the pair (k, l), (i, j), and, where both i != k and j != l, the ones
    with i and k, or j and l, exchanged: these meet too if h(i) - h(k) is its own
    negative modulo K.
    """
    m, n = matrix_shape(x.shape)
    x, y = x.reshape(m, n), y.reshape(m, n)

    def off(terms: str) -> jax.Array:
        """Sum over i != k and j != l, by inclusion and exclusion."""
        total = jnp.zeros(())
        for row, column in itertools.product("ki", "lj"):
            indices = terms.replace("k", row).replace("l", column)
            term = einsum(f"{indices}->", x, y, x, y, optimize=True)
            total += term if (row == "k") == (column == "l") else -term
        return total

    def within(gram: jax.Array) -> jax.Array:
        return (gram**2 + gram * gram.T).sum() - 2 * (jnp.diag(gram) ** 2).sum()

    squares = off("ij,kl,ij,kl") + off("ij,kl,kl,ij")
    exchanged = off("ij,kl,kj,il") + off("ij,kl,il,kj")
    own_negatives = 1 if rank % 2 else 2
    same_row = within(matmul(x.T, y)) + within(matmul(x, y.T))
    return (same_row + squares + own_negatives / rank * exchanged) / rank
