"""Sketches of a leaf as a vector: dense, sparse, and by Hadamard transforms."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.sketch.base import (
    MULTIPLY,
    TOUCH,
    Sketch,
    State,
    batch_last,
    check_positive,
    cross,
    flat,
    fraction,
    make_sketch,
    matmul,
    random_order,
    random_rows,
    random_signs,
    tensordot,
)


def gaussian(*, rank: int) -> Sketch:
    """Creates a sketch with independent entries from N(0, 1 / K).

    It is the reference for all other sketches:
    Var <S x, S y> = (|x|^2 |y|^2 + <x, y>^2) / K. The state takes 4 P K bytes.

    Source: Johnson & Lindenstrauss 1984; Indyk & Motwani 1998.

    >>> sketch = gaussian(rank=3)
    >>> sketch.apply(sketch.init(jax.random.key(0), (4, 2)), jnp.ones((4, 2))).shape
    (3,)

    Args:
        rank: number of rows, K.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not positive.
    """

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return (jnp.vdot(x, x) * jnp.vdot(y, y) + jnp.vdot(x, y) ** 2) / rank

    return _dense("gaussian", rank, _normal, variance)


def rademacher(*, rank: int) -> Sketch:
    """Creates a sketch with independent entries +-1 / sqrt K.

    Var <S x, S y> = (|x|^2 |y|^2 + <x, y>^2 - 2 sum_p x_p^2 y_p^2) / K. The state
    takes 4 P K bytes.

    Source: Achlioptas 2003.

    >>> sketch = rademacher(rank=4)
    >>> float(abs(sketch.init(jax.random.key(0), (3,))).max())
    0.5

    Args:
        rank: number of rows, K.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not positive.
    """
    return _dense("rademacher", rank, random_signs, lambda x, y: cross(x, y) / rank)


def count_sketch(*, rank: int, num_nonzeros: int = 1) -> Sketch:
    """Creates a count sketch: it adds each value to a random row, with a random sign.

    The rows are divided into s blocks, and each value is added to one row of each. The
    variance is that of `rademacher` for any s; a larger s only makes large errors
    rarer. The sketch has no reverse-mode derivative, and on a GPU the order in which it
    sums is not the same in each run. `balanced_fold` avoids both.

    Source: Charikar et al. 2002 (s = 1); Kane & Nelson 2014 (the block construction).

    >>> sketch = count_sketch(rank=8)
    >>> state = sketch.init(jax.random.key(0), (100,))
    >>> int(jnp.abs(sketch.apply(state, jnp.zeros(100).at[7].set(3.0))).sum())
    3

    Args:
        rank: number of rows, K.
        num_nonzeros: number of nonzero entries +-1 / sqrt s in each column of S, s.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not a multiple of `num_nonzeros`, or one of them is not
            positive.
    """
    check_positive(rank=rank, num_nonzeros=num_nonzeros)
    if rank % num_nonzeros:
        raise ValueError(
            f"rank must be a multiple of num_nonzeros, which is the number of blocks "
            f"of rows, got rank {rank} and num_nonzeros {num_nonzeros}"
        )
    block_size = rank // num_nonzeros

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        row_key, sign_key = jax.random.split(key)
        size = (num_nonzeros, math.prod(shape))
        rows = random_rows(row_key, size, block_size)
        signs = random_signs(sign_key, size)
        return rows, signs / num_nonzeros**0.5

    @batch_last
    def scatter(state: State, x: jax.Array) -> jax.Array:
        blocks = [
            jax.ops.segment_sum(signs[:, None] * x, rows, block_size)
            for rows, signs in zip(*state, strict=True)
        ]
        return jnp.concatenate(blocks)

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        return scatter(state, flat(leaf, state[0].shape[1]))

    return make_sketch(
        "count_sketch",
        rank,
        init,
        apply,
        lambda x, y: cross(x, y) / rank,
        cost_of_value=num_nonzeros * TOUCH,
    )


def balanced_fold(*, rank: int) -> Sketch:
    """Creates a count sketch in which all rows have the same number of values.

    It multiplies by random signs, permutes, and sums. It has no scatter, so that runs
    on a GPU are bitwise reproducible. The variance is (n - K) / (n - 1) times that of
    `rademacher`, where n is P rounded up to a multiple of K. A leaf of at most K values
    is kept exactly.

    >>> sketch = balanced_fold(rank=16)
    >>> x = jnp.arange(10.0)
    >>> y = sketch.apply(sketch.init(jax.random.key(0), x.shape), x)
    >>> bool(jnp.vdot(x, x) == jnp.vdot(y, y))
    True

    Args:
        rank: number of rows, K.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not positive.
    """
    check_positive(rank=rank)

    def padded(size: int) -> int:
        return -(-size // rank) * rank

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        order_key, sign_key = jax.random.split(key)
        size = math.prod(shape)
        order = random_order(order_key, padded(size))
        return order, random_signs(sign_key, (size,))

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        order, signs = state
        x = jnp.pad(flat(leaf, signs.size) * signs, (0, order.size - signs.size))
        return x[order].reshape(-1, rank).sum(axis=0)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return cross(x, y) * fraction(rank, padded(x.size))

    return make_sketch("balanced_fold", rank, init, apply, variance)


def srht(*, rank: int) -> Sketch:
    """Creates a subsampled randomized Hadamard transform, S = sqrt(n / K) R H D.

    D is a diagonal matrix of random signs, H the orthonormal Walsh-Hadamard matrix of
    size n, and R selects K rows without replacement; n is the larger of P and K,
    rounded up to a power of 2. The variance is (n - K) / (n - 1) times that of
    `rademacher`. The rows have random signs, too, because the constant first column of
    H would correlate the sketches of two leaves.

    Source: Ailon & Chazelle 2006; Tropp 2011.

    >>> sketch = srht(rank=4)
    >>> state = sketch.init(jax.random.key(0), (7,))
    >>> jnp.abs(sketch.apply(state, jnp.ones(7).at[1:].set(0)))
    Array([0.5, 0.5, 0.5, 0.5], dtype=float32)

    Args:
        rank: number of rows, K.

    Returns:
        The sketch.

    Raises:
        ValueError: if `rank` is not positive.
    """
    check_positive(rank=rank)

    def padded(size: int) -> int:
        return 1 << (max(size, rank) - 1).bit_length()

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        size = math.prod(shape)
        row_key, sign_key, row_sign_key = jax.random.split(key, 3)
        rows = random_order(row_key, padded(size))[:rank]
        signs = random_signs(sign_key, (size,))
        scales = random_signs(row_sign_key, (rank,))
        return rows, signs, scales / rank**0.5

    def apply(state: State, leaf: jax.Array) -> jax.Array:
        rows, signs, scales = state
        x = flat(leaf, signs.size) * signs
        x = jnp.pad(x, (0, padded(x.size) - x.size))
        return _walsh_hadamard(x)[rows] * scales

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return cross(x, y) * fraction(rank, padded(x.size))

    return make_sketch("srht", rank, init, apply, variance)


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape, jnp.float32)


def _apply_dense(matrix: jax.Array, leaf: jax.Array) -> jax.Array:
    return matmul(flat(leaf, len(matrix)), matrix)


def _dense(
    name: str,
    rank: int,
    draw: Callable[..., jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
) -> Sketch:
    check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        return draw(key, (math.prod(shape), rank)) / rank**0.5

    cost = 2 * rank * MULTIPLY
    return make_sketch(name, rank, init, _apply_dense, variance, cost_of_value=cost)


def _walsh_hadamard(x: jax.Array) -> jax.Array:
    """Computes H x, H unnormalized of size n, a power of 2, by small matrix products.

    Factors of size 32 were fastest on a CPU (n = 16,384: 45 us an example; 66 us with
    size 8, 80 us with 128, 74 us with butterflies of size 2).
    """
    n = x.size
    sizes = [min(32, n >> bits) for bits in range(0, n.bit_length() - 1, 5)]
    y = x.reshape(sizes)
    for size in sizes:  # transforms the first axis and makes it the last
        i = np.arange(size)
        h = np.where(np.bitwise_count(np.bitwise_and.outer(i, i)) % 2, -1, 1)
        y = tensordot(y, h.astype(np.float32), ((0,), (0,)))
    return y.reshape(n)
