"""Random projections of Fisher vectors to K numbers that keep inner products.

A `Sketch` draws a random K x P matrix S for one leaf (one parameter, of P values).
`project` gives every leaf of a Fisher vector its own and adds the results. All of it
is written for one example, to be batched by `vmap`.

Every sketch has entries of mean zero and E[(S x)(S y)^T] = (<x, y> / K) I. Therefore
<S x, S y> has mean <x, y>, and a sum over leaves of independent sketches, each of
its own kind, is again such a sketch. The variances below are exact, not bounds.

The factories of sketches take the rank K, and raise ValueError unless it is positive.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from fkjax.base import Factors, key_for, path_of

State = Any
"""What a sketch has drawn: a pytree of arrays."""


class Sketch(NamedTuple):
    """A distribution of random K x P matrices S, for one leaf of any shape.

    Attributes:
        rank: K.
        init: `init(key, shape) -> state`, for leaves of that shape.
        apply: `apply(state, leaf) -> S x`, x the flattened leaf. Shape [K].
        apply_factors: `apply_factors(state, a, d)`: the same of sum_t a_t d_t^T, for
            a of shape [T, m], d of shape [T, n] and leaves that are [m, n] when
            all axes but the last are merged.
        variance: `variance(x, y) -> Var <S x, S y>` for two leaves. Shape [].
    """

    rank: int
    init: Callable[[jax.Array, tuple[int, ...]], State]
    apply: Callable[[State, jax.Array], jax.Array]
    apply_factors: Callable[[State, jax.Array, jax.Array], jax.Array]
    variance: Callable[[jax.Array, jax.Array], jax.Array]


class Projection(NamedTuple):
    """A map of whole Fisher vectors to embeddings.

    Attributes:
        init: `init(key, like) -> state`, for vectors with the shapes of `like`, a
            pytree of arrays or of `jax.ShapeDtypeStruct`.
        apply: `apply(state, vector) -> embedding`, of one example. Shape [K].
        variance: `variance(x, y)`: that of the inner product of the embeddings of
            two vectors, over keys. Shape [].
    """

    init: Callable[[jax.Array, Any], State]
    apply: Callable[[State, Any], jax.Array]
    variance: Callable[[Any, Any], jax.Array]


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

    return _dense(rank, jax.random.normal, variance)


def rademacher(*, rank: int) -> Sketch:
    """Independent entries +-1 / sqrt K.

    Var <S x, S y> = (|x|^2 |y|^2 + <x, y>^2 - 2 sum_p x_p^2 y_p^2) / K. The state
    takes 4 P K bytes. Source: Achlioptas 2003.

    >>> sketch = rademacher(rank=4)
    >>> float(abs(sketch.init(jax.random.key(0), (3,))).max())
    0.5
    """
    return _dense(rank, jax.random.rademacher, lambda x, y: _cross(x, y) / rank)


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

    return _sketch(rank, init, apply, lambda x, y: _cross(x, y) / rank)


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

    return _sketch(rank, init, apply, variance)


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

    return _sketch(rank, init, apply, variance)


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

    return Sketch(rank, init, apply, apply_factors, variance)


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
        if t * rank * (m + n) > (t + rank) * m * n:  # many positions: sum them first
            return apply(state, _product(a, d))
        return (_matmul(a, state[0]) * _matmul(d, state[1])).sum(axis=0)

    def variance(x: jax.Array, y: jax.Array) -> jax.Array:
        return _kronecker_variance(x, y, 1, 1) / rank

    return Sketch(rank, init, apply, apply_factors, variance)


def project(sketches: Sketch | Mapping[str, Sketch]) -> Projection:
    """Sketches every leaf of a Fisher vector independently, and adds the results.

    A leaf's sketch depends on the key, the leaf's path and its shape: not on what
    other leaves there are, their order, the batch or the device. The variance is
    sum_l Var_l + sum_{l != l'} (|x_l|^2 |y_l'|^2 + <x_l, y_l><x_l', y_l'>) / K.

    >>> vector = {"fc": {"kernel": jnp.ones((5, 4)), "bias": jnp.ones(4)}}
    >>> fold, dense = balanced_fold(rank=8), gaussian(rank=8)
    >>> projection = project({"fc/kernel": dense, "fc/bias": fold})
    >>> state = projection.init(jax.random.key(0), vector)
    >>> projection.apply(state, vector).shape
    (8,)

    Args:
        sketches: one sketch for all leaves; or one for each, by its path, which is
            `fkjax.base.path_of`.

    Returns:
        A `Projection`, where any leaf may also be given as `Factors`.

    Raises:
        ValueError: if the sketches differ in rank, or (by `init`) if their paths are
            not those of the vector.
    """
    if not isinstance(sketches, Sketch):
        ranks = {path: sketch.rank for path, sketch in sketches.items()}
        if len(set(ranks.values())) != 1:
            raise ValueError(
                f"sketches are added up, so there must be one or more, all of one "
                f"rank; got ranks {ranks}"
            )

    def sketch_of(path: str) -> Sketch:
        return sketches if isinstance(sketches, Sketch) else sketches[path]

    def init(key: jax.Array, like: Any) -> State:
        leaves = _leaves(like)
        if not isinstance(sketches, Sketch) and set(sketches) != set(leaves):
            raise ValueError(
                f"give one sketch for each leaf of the vector, whose paths are "
                f"{sorted(leaves)}; got sketches for {sorted(sketches)}"
            )
        return {
            path: sketch_of(path).init(key_for(key, f"projection {path}"), leaf.shape)
            for path, leaf in leaves.items()
        }

    def apply(state: State, vector: Any) -> jax.Array:
        leaves = _leaves(vector)
        _check_paths(state, leaves)
        embeddings = [
            sketch_of(path).apply_factors(state[path], *leaf)
            if isinstance(leaf, Factors)
            else sketch_of(path).apply(state[path], leaf)
            for path, leaf in leaves.items()
        ]
        return functools.reduce(jnp.add, embeddings)

    def variance(x: Any, y: Any) -> jax.Array:
        xs, ys = _leaves(x), _leaves(y)
        within = [sketch_of(path).variance(xs[path], ys[path]) for path in xs]
        xx, yy, xy = (
            jnp.stack([jnp.vdot(a[path], b[path]) for path in xs])
            for a, b in ((xs, xs), (ys, ys), (xs, ys))
        )
        pairs = jnp.outer(xx, yy) + jnp.outer(xy, xy)
        between = (pairs * (1 - jnp.eye(len(xs)))).sum()
        return jnp.stack(within).sum() + between / sketch_of(next(iter(xs))).rank

    return Projection(init, apply, variance)


def identity() -> Projection:
    """The Fisher vector itself, flattened: K = P, exact. For small models and tests.

    >>> projection = identity()
    >>> vector = {"bias": jnp.ones(2), "kernel": jnp.zeros((1, 2))}
    >>> projection.apply(projection.init(jax.random.key(0), vector), vector)
    Array([1., 1., 0., 0.], dtype=float32)
    """

    def init(key: jax.Array, like: Any) -> State:
        del key, like
        return {}

    def apply(state: State, vector: Any) -> jax.Array:
        del state
        leaves = _leaves(vector).values()
        leaves = [_product(*x) if isinstance(x, Factors) else x for x in leaves]
        return jnp.concatenate([_flat(leaf, leaf.size) for leaf in leaves])

    return Projection(init, apply, _exact)


def validation_span(vectors: Any, *, rank: int) -> Projection:
    """Coordinates in the span of M validation vectors: exact against each of these.

    The embedding is Q^T x, where the columns of Q are an orthonormal basis that holds
    the validation vectors, followed by zeros if M < K. Its inner product with the
    embedding of a validation vector is exact; two pool vectors lose what both have
    outside of the span. Nothing is random. The state takes 4 P M bytes.

    >>> validation = {"w": jnp.eye(3)[:2]}
    >>> projection = validation_span(validation, rank=2)
    >>> state = projection.init(jax.random.key(0), {"w": jnp.zeros(3)})
    >>> y = projection.apply(state, {"w": jnp.array([3.0, 4.0, 12.0])})
    >>> print(f"{jnp.vdot(y, y):.3f}")
    25.000

    Args:
        vectors: the validation set's Fisher vectors: a leading axis M on every leaf.
        rank: K, at least M.

    Returns:
        A `Projection`.

    Raises:
        ValueError: if M is more than K, or (by `init`) if the pool's vectors have
            other shapes than the validation set's.
    """
    leaves = _leaves(vectors)
    sizes = {len(leaf) for leaf in leaves.values()}
    if len(sizes) != 1 or not 1 <= max(sizes) <= rank:
        raise ValueError(
            f"every leaf needs a leading axis of 1 to {rank} validation examples, the "
            f"rank; got lengths {sorted(sizes)}: raise the rank or sketch instead"
        )

    def init(key: jax.Array, like: Any) -> State:
        del key
        given = {path: leaf.shape for path, leaf in _leaves(like).items()}
        expected = {path: leaf.shape[1:] for path, leaf in leaves.items()}
        if given != expected:
            raise ValueError(
                f"validation vectors have leaves {expected}, pool vectors {given}"
            )
        flat = [x.reshape(len(x), -1).astype(jnp.float32) for x in leaves.values()]
        # By reflections, so orthonormal however dependent the vectors are.
        basis, _ = jnp.linalg.qr(jnp.concatenate(flat, axis=1).T)
        ends = np.cumsum([x.shape[1] for x in flat])[:-1]
        basis = jnp.pad(basis, ((0, 0), (0, rank - basis.shape[1])))
        return dict(zip(leaves, jnp.split(basis, ends), strict=True))

    # The sum over leaves of a matrix product, whatever the matrices are.
    return Projection(init, project(gaussian(rank=rank)).apply, _exact)


def _exact(x: Any, y: Any) -> jax.Array:
    del x, y
    return jnp.zeros(())


def _check_positive(**ranks: int) -> None:
    for name, value in ranks.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def _check_paths(state: State, leaves: dict[str, Any]) -> None:
    if set(state) != set(leaves):
        raise ValueError(
            f"the projection was made for leaves {sorted(state)}, got {sorted(leaves)}"
        )


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves by path; `Factors` count as one."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: isinstance(x, Factors)
    )
    return {path_of(path): leaf for path, leaf in leaves}


def _flat(leaf: jax.Array, size: int) -> jax.Array:
    chex.assert_size(leaf, size)
    return leaf.reshape(size).astype(jnp.float32)


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def _matrix(leaf: jax.Array, m: int, n: int) -> jax.Array:
    return _flat(leaf, m * n).reshape(m, n)


def _product(a: jax.Array, d: jax.Array) -> jax.Array:
    return _einsum("tm,tn->mn", a, d)


def _sketch(
    rank: int,
    init: Callable[[jax.Array, tuple[int, ...]], State],
    apply: Callable[[State, jax.Array], jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
) -> Sketch:
    """A sketch with no short cut for factors: they are multiplied out."""

    def apply_factors(state: State, a: jax.Array, d: jax.Array) -> jax.Array:
        return apply(state, _product(a, d))

    return Sketch(rank, init, apply, apply_factors, variance)


def _apply_dense(matrix: jax.Array, leaf: jax.Array) -> jax.Array:
    return _matmul(_flat(leaf, len(matrix)), matrix)


def _dense(
    rank: int,
    draw: Callable[..., jax.Array],
    variance: Callable[[jax.Array, jax.Array], jax.Array],
) -> Sketch:
    _check_positive(rank=rank)

    def init(key: jax.Array, shape: tuple[int, ...]) -> State:
        return draw(key, (math.prod(shape), rank), jnp.float32) / rank**0.5

    return _sketch(rank, init, _apply_dense, variance)


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
