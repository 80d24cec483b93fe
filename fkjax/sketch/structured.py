"""Sketches that are computed from the factors of a matrix."""

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
    random_rows,
    random_signs,
)


def kronecker(*, row_rank: int, column_rank: int) -> Sketch:
    """Creates the Kronecker sketch A^T X B of a leaf X [m, n], with random signs.

    The entries of A are +-1 / sqrt(row_rank), those of B +-1 / sqrt(column_rank), and
    K = row_rank * column_rank. It is cheap, but has a high variance: for X = a d^T and
    Y = a' d'^T it is (v_a + <a, a'>^2)(v_d + <d, d'>^2) - <X, Y>^2, where v_a and v_d
    are the variances of `rademacher` with row_rank and column_rank.

    Source: Choe et al. 2024 (LoGra).

    >>> sketch = kronecker(row_rank=4, column_rank=2)
    >>> sketch.apply(sketch.init(jax.random.key(0), (9, 5)), jnp.ones((9, 5))).shape
    (8,)

    Args:
        row_rank: number of columns of A, which has m rows.
        column_rank: number of columns of B, which has n rows.

    Returns:
        The sketch.

    Raises:
        ValueError: if a rank is not positive.
    """
    check_positive(row_rank=row_rank, column_rank=column_rank)
    rank = row_rank * column_rank

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        m, n = matrix_shape(shape)
        a_key, b_key = jax.random.split(key)
        a = random_signs(a_key, (m, row_rank))
        b = random_signs(b_key, (n, column_rank))
        return a / row_rank**0.5, b / column_rank**0.5

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        a, b = state
        return matmul(matmul(a.T, as_matrix(leaf, len(a), len(b))), b).reshape(rank)

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        if not _fits(state, a, d):
            return apply(state, weight_gradient(a, d))
        rows, columns = matmul(a, state[0]), matmul(d, state[1])
        return matmul(rows.T, columns).reshape(rank)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _kronecker_variance(x, y, row_rank, column_rank)

    def cost(t: int, m: int, n: int) -> float:
        return 2 * t * (m * row_rank + n * column_rank + rank) * MULTIPLY

    return Sketch("kronecker", rank, init, apply, apply_factors, variance, cost)


def khatri_rao(*, rank: int) -> Sketch:
    """Creates the Khatri-Rao sketch u_r^T X v_r / sqrt K of a leaf X [m, n], in row r.

    The entries of u_r and v_r are random signs. For X = a d^T, row r is
    (u_r . a)(v_r . d) / sqrt K, which takes no array of shape [m, n]. The variance is
    1 / K times that of `kronecker` with ranks 1 and 1: at most 8 |x|^2 |y|^2 / K, where
    `rademacher` has 2 |x|^2 |y|^2 / K.

    Source: Rakhshan & Rabusseau 2020 (CP-structured projections).

    >>> sketch = khatri_rao(rank=4)
    >>> state = sketch.init(jax.random.key(0), (9, 5))
    >>> sketch.apply_factors(state, jnp.ones((1, 9)), jnp.ones((1, 5))).shape
    (4,)

    Args:
        rank: number of rows, K.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not positive.
    """
    check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        m, n = matrix_shape(shape)
        u_key, v_key = jax.random.split(key)
        u = random_signs(u_key, (m, rank))
        v = random_signs(v_key, (n, rank))
        return u / rank**0.5, v

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        u, v = state
        return (matmul(as_matrix(leaf, len(u), len(v)).T, u) * v).sum(axis=0)

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        (t, m), n = a.shape, d.shape[1]
        if not _fits(state, a, d) or summed(t, m, n) < factored(t, m, n):
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
    """Creates the tensor sketch: a count sketch of a leaf [m, n] with separable hashes.

    Entry (i, j) is added to row h(i) + h'(j) mod K, with sign s(i) s'(j). For
    X = a d^T, it is the circular convolution of the count sketches of a and d, computed
    by FFT: it takes m + n + K log K steps, and no array of shape [m, n]. For X and Y of
    rank one and large K, the variance is at most 6 |x|^2 |y|^2 / K, where
    `count_sketch` has 2 |x|^2 |y|^2 / K and `khatri_rao` 8 |x|^2 |y|^2 / K.

    Source: Pham & Pagh 2013.

    >>> sketch = tensor_sketch(rank=4)
    >>> state = sketch.init(jax.random.key(0), (9, 5))
    >>> sketch.apply_factors(state, jnp.ones((1, 9)), jnp.ones((1, 5))).shape
    (4,)

    Args:
        rank: number of rows, K.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not positive.
    """
    check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        keys = jax.random.split(key)
        return tuple(map(hashed, keys, matrix_shape(shape)))

    def hashed(key: jax.Array, size: int) -> State:
        row_key, sign_key = jax.random.split(key)
        rows = random_rows(row_key, (size,), rank)
        return rows, random_signs(sign_key, (size,))

    def add(state: State, x: jax.Array) -> jax.Array:
        rows, signs = state
        return jax.ops.segment_sum(signs[:, None] * x, rows, rank)

    count = batch_last(add)

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        (rows_a, signs_a), (rows_d, signs_d) = state
        rows = (rows_a[:, None] + rows_d[None]) % rank
        signs = signs_a[:, None] * signs_d[None]
        return count((rows.ravel(), signs.ravel()), flat(leaf, rows.size))

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        (t, m), n = a.shape, d.shape[1]
        if not _fits(state, a, d) or summed(t, m, n) < factored(t, m, n):
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


def _fits(state: State, a: jax.Array, d: jax.Array) -> bool:
    """Returns whether a state of two sides is that of a matrix with these factors.

    A leaf may be stored in one shape, such as [d, heads, n] of attention, and used in
    another. A state for the stored shape then needs the leaf multiplied out.
    """
    sizes = [len(jax.tree.leaves(side)[0]) for side in state]
    return sizes == [a.shape[-1], d.shape[-1]]


def _kronecker_variance(
    x: jax.Array, y: jax.Array, row_rank: int, column_rank: int
) -> jax.Array:
    """Computes Var <A^T X B, A^T Y B> for matrices A, B of random signs.

    With P = A A^T, E[P_ij P_kl] is d_ij d_kl + (d_ik d_jl + d_il d_jk - 2 d_ijkl) / k,
    and likewise for B. These are all ways to contract the indices of X, Y, X and Y.
    """
    m, n = matrix_shape(x.shape)
    x, y = x.reshape(m, n), y.reshape(m, n)

    def terms(letters: str, rank: int) -> list[tuple[str, float]]:
        a, b = letters
        ways = a + a + b + b, a + b + a + b, a + b + b + a, a * 4
        return list(zip(ways, (1, 1 / rank, 1 / rank, -2 / rank), strict=True))

    both = list(itertools.product(terms("ab", row_rank), terms("cd", column_rank)))
    total = jnp.zeros(())
    for (rows, row_weight), (columns, column_weight) in both[1:]:  # [0] is <X, Y>^2
        indices = ",".join(r + c for r, c in zip(rows, columns, strict=True))
        term = einsum(f"{indices}->", x, y, x, y, optimize=True)
        total += row_weight * column_weight * term
    return total


def _tensor_sketch_variance(x: jax.Array, y: jax.Array, rank: int) -> jax.Array:
    """Computes the variance of the inner product of two tensor sketches.

    It is a sum over pairs of different entries (i, j) and (k, l), which are in one row
    with probability 1 / K. The signs of X_ij Y_kl cancel in its square and in its
    product with the pair (k, l), (i, j). If i != k and j != l, they also cancel in the
    products with the pairs that exchange i and k, or j and l. These are also in one row
    if h(i) - h(k) is its own negative modulo K.
    """
    m, n = matrix_shape(x.shape)
    x, y = x.reshape(m, n), y.reshape(m, n)

    def off(terms: str) -> jax.Array:
        """Sums over i != k and j != l, by inclusion and exclusion."""
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
