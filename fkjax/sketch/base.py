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
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from fkjax.fisher.gram import weight_gradient

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
_MULTIPLY, _TOUCH, _BUTTERFLY = 0.01, 0.8, 0.1

# Embeddings are compared with each other: no reduced precision on accelerators.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_tensordot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def gaussian(*, rank: int) -> Sketch:
    """Independent entries from N(0, 1 / K): the reference for all others.

    Var <S x, S y> = (|x|^2 |y|^2 + <x, y>^2) / K. The state takes 4 P K bytes.
    Source: Johnson & Lindenstrauss 1984; Indyk & Motwani 1998.

    >>> sketch = gaussian(rank=3)
    >>> sketch.apply(sketch.init(jax.random.key(0), (4, 2)), jnp.ones((4, 2))).shape
    (3,)
    """

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return (jnp.vdot(x, x) * jnp.vdot(y, y) + jnp.vdot(x, y) ** 2) / rank

    return _dense("gaussian", rank, jax.random.normal, variance)


def rademacher(*, rank: int) -> Sketch:
    """Independent entries +-1 / sqrt K.

    Var <S x, S y> = (|x|^2 |y|^2 + <x, y>^2 - 2 sum_p x_p^2 y_p^2) / K. The state
    takes 4 P K bytes. Source: Achlioptas 2003.

    >>> sketch = rademacher(rank=4)
    >>> float(abs(sketch.init(jax.random.key(0), (3,))).max())
    0.5
    """
    return _dense(
        "rademacher", rank, jax.random.rademacher, lambda x, y: _cross(x, y) / rank
    )


def count_sketch(*, rank: int, num_nonzeros: int = 1) -> Sketch:
    """Adds every value, with a random sign, to one random row in each of s blocks.

    The variance is that of `rademacher`, whatever s is; a larger s only thins the
    tails. It has no reverse-mode derivative, and on a GPU its rows are summed in an
    order that varies from run to run: `balanced_fold` has neither fault.

    Source: Charikar et al. 2002 (s = 1); Kane & Nelson 2014 (the block construction).

    >>> sketch = count_sketch(rank=8)
    >>> state = sketch.init(jax.random.key(0), (100,))
    >>> int(jnp.abs(sketch.apply(state, jnp.zeros(100).at[7].set(3.0))).sum())
    3

    Args:
        rank: K.
        num_nonzeros: s, the entries +-1 / sqrt s in each column of S.

    Raises:
        ValueError: if the rank is not a multiple of s.
    """
    _check_positive(rank=rank, num_nonzeros=num_nonzeros)
    if rank % num_nonzeros:
        raise ValueError(
            f"the rank must be a multiple of num_nonzeros, which divides the rows into "
            f"blocks; got rank {rank} and num_nonzeros {num_nonzeros}"
        )
    block_size = rank // num_nonzeros

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        row_key, sign_key = jax.random.split(key)
        size = (num_nonzeros, math.prod(shape))
        rows = jax.random.randint(row_key, size, 0, block_size)
        signs = jax.random.rademacher(sign_key, size, jnp.float32)
        return rows, signs / num_nonzeros**0.5

    @_batch_last
    def scatter(state: State, x: jax.Array) -> jax.Array:
        blocks = [
            jax.ops.segment_sum(signs[:, None] * x, rows, block_size)
            for rows, signs in zip(*state, strict=True)
        ]
        return jnp.concatenate(blocks)

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        return scatter(state, _flat(leaf, state[0].shape[1]))

    return _sketch(
        "count_sketch",
        rank,
        init,
        apply,
        lambda x, y: _cross(x, y) / rank,
        cost_of_value=num_nonzeros * _TOUCH,
    )


def balanced_fold(*, rank: int) -> Sketch:
    """Count sketch with rows of equal load: random signs, a permutation and a fold.

    Without a scatter: the same to the bit in every run on a GPU. With n, which is P
    rounded up to a multiple of K, the variance is (n - K) / (n - 1) times that of
    `rademacher`; a leaf of at most K values is kept exactly.

    >>> sketch = balanced_fold(rank=16)
    >>> x = jnp.arange(10.0)
    >>> y = sketch.apply(sketch.init(jax.random.key(0), x.shape), x)
    >>> bool(jnp.vdot(x, x) == jnp.vdot(y, y))
    True
    """
    _check_positive(rank=rank)

    def padded(size: int) -> int:
        return -(-size // rank) * rank

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        order_key, sign_key = jax.random.split(key)
        size = math.prod(shape)
        order = jax.random.permutation(order_key, padded(size))
        return order, jax.random.rademacher(sign_key, (size,), jnp.float32)

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        order, signs = state
        x = jnp.pad(_flat(leaf, signs.size) * signs, (0, order.size - signs.size))
        return x[order].reshape(-1, rank).sum(axis=0)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _cross(x, y) * _fraction(rank, padded(x.size))

    return _sketch("balanced_fold", rank, init, apply, variance)


def srht(*, rank: int) -> Sketch:
    """Subsampled randomized Hadamard transform: S = sqrt(n / K) R H D.

    D are random signs, H the orthonormal Walsh-Hadamard matrix of size n, the power
    of 2 to which P (or K) is rounded up, and R keeps K rows drawn without
    replacement. The variance is (n - K) / (n - 1) times that of `rademacher`. Rows
    get random signs too: else the constant first column of H would correlate the
    sketches of two leaves.

    Source: Ailon & Chazelle 2006; Tropp 2011.

    >>> sketch = srht(rank=4)
    >>> state = sketch.init(jax.random.key(0), (7,))
    >>> jnp.abs(sketch.apply(state, jnp.ones(7).at[1:].set(0)))
    Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    _check_positive(rank=rank)

    def padded(size: int) -> int:
        return 1 << (max(size, rank) - 1).bit_length()

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        size = math.prod(shape)
        row_key, sign_key, row_sign_key = jax.random.split(key, 3)
        rows = jax.random.permutation(row_key, padded(size))[:rank]
        signs = jax.random.rademacher(sign_key, (size,), jnp.float32)
        scales = jax.random.rademacher(row_sign_key, (rank,), jnp.float32)
        return rows, signs, scales / rank**0.5

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        rows, signs, scales = state
        x = _flat(leaf, signs.size) * signs
        x = jnp.pad(x, (0, padded(x.size) - x.size))
        return _walsh_hadamard(x)[rows] * scales

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _cross(x, y) * _fraction(rank, padded(x.size))

    return _sketch("srht", rank, init, apply, variance)


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
    _check_positive(row_rank=row_rank, column_rank=column_rank)
    rank = row_rank * column_rank

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        m, n = _matrix_shape(shape)
        a_key, b_key = jax.random.split(key)
        a = jax.random.rademacher(a_key, (m, row_rank), jnp.float32)
        b = jax.random.rademacher(b_key, (n, column_rank), jnp.float32)
        return a / row_rank**0.5, b / column_rank**0.5

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        a, b = state
        return _matmul(_matmul(a.T, _matrix(leaf, len(a), len(b))), b).reshape(rank)

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        rows, columns = _matmul(a, state[0]), _matmul(d, state[1])
        return _matmul(rows.T, columns).reshape(rank)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _kronecker_variance(x, y, row_rank, column_rank)

    def cost(t: int, m: int, n: int) -> float:
        return 2 * t * (m * row_rank + n * column_rank + rank) * _MULTIPLY

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
    _check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        m, n = _matrix_shape(shape)
        u_key, v_key = jax.random.split(key)
        u = jax.random.rademacher(u_key, (m, rank), jnp.float32)
        v = jax.random.rademacher(v_key, (n, rank), jnp.float32)
        return u / rank**0.5, v

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        u, v = state
        return (_matmul(_matrix(leaf, len(u), len(v)).T, u) * v).sum(axis=0)

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        (t, m), n = a.shape, d.shape[1]
        if summed(t, m, n) < factored(t, m, n):
            return apply(state, weight_gradient(a, d))
        return (_matmul(a, state[0]) * _matmul(d, state[1])).sum(axis=0)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _kronecker_variance(x, y, 1, 1) / rank

    def factored(t: int, m: int, n: int) -> float:
        return 2 * t * rank * (m + n) * _MULTIPLY

    def summed(t: int, m: int, n: int) -> float:
        return _materialized_cost(t, m, n) + 2 * rank * m * n * _MULTIPLY

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
    _check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        keys = jax.random.split(key)
        return tuple(map(hashed, keys, _matrix_shape(shape)))

    def hashed(key: jax.Array, size: int) -> State:
        row_key, sign_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (size,), 0, rank)
        return rows, jax.random.rademacher(sign_key, (size,), jnp.float32)

    def add(state: State, x: jax.Array) -> jax.Array:
        rows, signs = state
        return jax.ops.segment_sum(signs[:, None] * x, rows, rank)

    count = _batch_last(add)

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        (rows_a, signs_a), (rows_d, signs_d) = state
        rows = (rows_a[:, None] + rows_d) % rank
        signs = signs_a[:, None] * signs_d
        return count((rows.ravel(), signs.ravel()), _flat(leaf, rows.size))

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
        transform = rank * math.log2(2 * rank) * _BUTTERFLY
        return t * (m + n) * _TOUCH + (2 * t + 1) * transform

    def summed(t: int, m: int, n: int) -> float:
        return _materialized_cost(t, m, n) + m * n * _TOUCH

    def cost(t: int, m: int, n: int) -> float:
        return min(factored(t, m, n), summed(t, m, n))

    return Sketch("tensor_sketch", rank, init, apply, apply_factors, variance, cost)


def _check_positive(**ranks: int) -> None:
    for name, value in ranks.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def _flat(leaf: jax.Array, size: int) -> jax.Array:
    chex.assert_size(leaf, size)
    return leaf.reshape(size).astype(jnp.float32)


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def _matrix(leaf: jax.Array, m: int, n: int) -> jax.Array:
    return _flat(leaf, m * n).reshape(m, n)


def _sketch(
    name: str,
    rank: int,
    init: Callable[[jax.Array, tuple[int, ...]], State],
    apply: Callable[[State, jax.Array], jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    cost_of_value: float = _TOUCH,
) -> Sketch:
    """A sketch with no short cut for factors: they are multiplied out."""

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        return apply(state, weight_gradient(a, d))

    def cost(t: int, m: int, n: int) -> float:
        return _materialized_cost(t, m, n) + m * n * cost_of_value

    return Sketch(name, rank, init, apply, apply_factors, variance, cost)


def _materialized_cost(t: int, m: int, n: int) -> float:
    return 2 * t * m * n * _MULTIPLY


def _apply_dense(matrix: jax.Array, leaf: jax.Array) -> jax.Array:
    return _matmul(_flat(leaf, len(matrix)), matrix)


def _dense(
    name: str,
    rank: int,
    draw: Callable[..., jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
) -> Sketch:
    _check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        return draw(key, (math.prod(shape), rank), jnp.float32) / rank**0.5

    cost = 2 * rank * _MULTIPLY
    return _sketch(name, rank, init, _apply_dense, variance, cost_of_value=cost)


def _batch_last(
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


def _walsh_hadamard(x: jax.Array) -> jax.Array:
    """H x of size n, a power of 2, H unnormalised, as products with small matrices.

    Factors of 32 were fastest on a CPU (n = 16,384: 45 us an example; 66 with 8, 80
    with 128, 74 with butterflies of 2).
    """
    n = x.size
    sizes = [min(32, n >> bits) for bits in range(0, n.bit_length() - 1, 5)]
    y = x.reshape(sizes)
    for size in sizes:  # transforms the first axis and makes it the last
        i = np.arange(size)
        h = np.where(np.bitwise_count(np.bitwise_and.outer(i, i)) % 2, -1, 1)
        y = _tensordot(y, h.astype(np.float32), ((0,), (0,)))
    return y.reshape(n)


def _fraction(rank: int, size: int) -> float:
    """1 / K, corrected for K rows without replacement out of a population."""
    return (size - rank) / (max(size - 1, 1) * rank)


def _cross(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over p != q of x_p^2 y_q^2 + x_p y_p x_q y_q."""
    squares = jnp.vdot(x**2, y**2)
    return jnp.vdot(x, x) * jnp.vdot(y, y) + jnp.vdot(x, y) ** 2 - 2 * squares


def _kronecker_variance(
    x: jax.Array, y: jax.Array, row_rank: int, column_rank: int
) -> jax.Array:
    """Var <A^T X B, A^T Y B> for matrices A, B of random signs.

    With P = A A^T, E[P_ij P_kl] is d_ij d_kl + (d_ik d_jl + d_il d_jk - 2 d_ijkl) / k,
    and so for B: these are all ways to contract the indices of X, Y, X and Y.
    """
    m, n = _matrix_shape(x.shape)
    x, y = x.reshape(m, n), y.reshape(m, n)

    def terms(letters: str, rank: int) -> list[tuple[str, float]]:
        a, b = letters
        ways = a + a + b + b, a + b + a + b, a + b + b + a, a * 4
        return list(zip(ways, (1, 1 / rank, 1 / rank, -2 / rank), strict=True))

    both = list(itertools.product(terms("ab", row_rank), terms("cd", column_rank)))
    total = jnp.zeros(())
    for (rows, row_weight), (columns, column_weight) in both[1:]:  # 0 is <X, Y>^2
        indices = ",".join(r + c for r, c in zip(rows, columns, strict=True))
        term = _einsum(f"{indices}->", x, y, x, y, optimize=True)
        total += row_weight * column_weight * term
    return total


def _tensor_sketch_variance(x: jax.Array, y: jax.Array, rank: int) -> jax.Array:
    """Sums over the pairs of entries (i, j) != (k, l) of X_ij Y_kl and their partners.

    Such a pair meets in one row with probability 1 / K. Signs leave its square, its
    product with the pair (k, l), (i, j), and, where both i != k and j != l, the ones
    with i and k, or j and l, exchanged: these meet too if h(i) - h(k) is its own
    negative modulo K.
    """
    m, n = _matrix_shape(x.shape)
    x, y = x.reshape(m, n), y.reshape(m, n)

    def off(terms: str) -> jax.Array:
        """Sum over i != k and j != l, by inclusion and exclusion."""
        total = jnp.zeros(())
        for row, column in itertools.product("ki", "lj"):
            indices = terms.replace("k", row).replace("l", column)
            term = _einsum(f"{indices}->", x, y, x, y, optimize=True)
            total += term if (row == "k") == (column == "l") else -term
        return total

    def within(gram: jax.Array) -> jax.Array:
        return (gram**2 + gram * gram.T).sum() - 2 * (jnp.diag(gram) ** 2).sum()

    squares = off("ij,kl,ij,kl") + off("ij,kl,kl,ij")
    exchanged = off("ij,kl,kj,il") + off("ij,kl,il,kj")
    own_negatives = 1 if rank % 2 else 2
    same_row = within(_matmul(x.T, y)) + within(_matmul(x, y.T))
    return (same_row + squares + own_negatives / rank * exchanged) / rank
