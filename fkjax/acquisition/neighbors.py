"""Exact search for the nearest neighbors in a pool of any size, in chunks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import widened
from fkjax.fisher.kernel import similarity
from fkjax.parallel.rows import Rows, rows_of

_GROUP = 32
"""Number of adjacent pool rows of which the search of a chunk compares the maximum."""


def top_k_streamed(
    queries: jax.Array,
    pool: jax.Array,
    *,
    k: int,
    mask: jax.Array | None = None,
    after: tuple[jax.Array, jax.Array] | None = None,
    chunk_size: int = 8192,
) -> tuple[jax.Array, jax.Array]:
    """Finds the k pool rows that are most similar to each query, nearest first.

    The similarity is the inner product. The result is that of `jax.lax.top_k` on all
    Q x N similarities, including ties (the lowest pool position comes first, and -0.0
    equals 0.0), but no more than 2 Q x chunk_size similarities are in memory at a time.
    Unlike there, where NaN is the highest value, rows whose similarity is NaN or -inf
    are not neighbors.

    >>> pool = jnp.array([[0.0], [3.0], [1.0], [3.0]])
    >>> similarities, indices = top_k_streamed(jnp.ones((1, 1)), pool, k=3)
    >>> indices.tolist(), similarities.tolist()
    ([[1, 3, 2]], [[3.0, 3.0, 1.0]])

    Args:
        queries: rows to find neighbors of. Shape [Q, L].
        pool: rows to search. Shape [N, L].
        k: number of neighbors to find, at most N.
        mask: whether to search each pool row; None searches all. Shape [N] bool.
        after: similarity and pool position of the last known neighbor of each query.
            The k neighbors after it are found. Shapes [Q].
        chunk_size: approximate number of pool rows to compare at a time, at least k.
            It affects the speed, not the result.

    Returns:
        The similarities and the pool positions of the neighbors; -inf and -1 where
        there are fewer than k. The similarities are float32, or float64 if the queries
        or the pool are; narrower types are converted one chunk at a time. Shapes
        [Q, k].

    Raises:
        ValueError: if the shapes do not agree, or k or the chunk size is out of range.
    """
    if queries.ndim != 2 or pool.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ValueError(
            "queries [Q, L] and pool [N, L] must be matrices with rows of the same "
            f"length, got {queries.shape} and {pool.shape}"
        )
    if not 1 <= k <= len(pool):
        raise ValueError(
            f"k must be from 1 to {len(pool)}, the number of rows of the pool, got {k}"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, got {chunk_size}")
    if mask is not None and mask.shape != (len(pool),):
        raise ValueError(
            f"mask must have one entry for each pool row, shape {(len(pool),)}, "
            f"got {mask.shape}"
        )
    return _top_k_streamed(queries, pool, mask, after, k=k, chunk_size=chunk_size)


def _streamed(
    queries: jax.Array,
    pool: jax.Array,
    mask: jax.Array | None,
    after: tuple[jax.Array, jax.Array] | None,
    *,
    k: int,
    chunk_size: int,
) -> tuple[jax.Array, jax.Array]:
    num_queries = len(queries)
    if mask is None:
        mask = jnp.ones(len(pool), bool)
    if after is None:
        after = before_all(num_queries)
    nearest, _ = search(
        queries,
        rows_of((pool, ())),
        k=k,
        mask=mask,
        after=after,
        batch_size=num_queries,
        num_batches=1,
        chunk_size=chunk_size,
    )
    return nearest


_top_k_streamed = jax.jit(_streamed, static_argnames=("k", "chunk_size"))


def before_all(num_queries: int) -> tuple[jax.Array, jax.Array]:
    """Returns the `after` of queries without a known neighbor. Shapes [Q]."""
    return jnp.full(num_queries, jnp.inf), jnp.full(num_queries, -1, jnp.int32)


def search(
    queries: jax.Array,
    pool: Rows,
    *,
    k: int,
    mask: jax.Array,
    after: tuple[jax.Array, jax.Array],
    batch_size: int,
    num_batches: int | jax.Array,
    chunk_size: int = 8192,
    similarity: Callable[[jax.Array, jax.Array], jax.Array] = similarity,
    lots: jax.Array | None = None,
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """Runs `top_k_streamed` on rows that are computed or streamed as they are read.

    Each row is read once. Each device searches its own share of the rows; then the
    results are merged. The shape of the matrix products does not depend on the number
    of devices, because XLA may sum in a different order for a different shape.

    Args:
        queries: rows to find neighbors of. Shape [Q, L].
        pool: rows (embedding [L], notes).
        k: number of neighbors to find, at most N.
        mask: whether to search each pool row. Shape [N] bool.
        after: see `top_k_streamed`. Shapes [Q].
        batch_size: number of queries to compare at a time. Q is a multiple of it.
        num_batches: number of batches of queries to search for. Shape [].
        chunk_size: approximate number of pool rows to compare at a time.
        similarity: similarity of queries and rows.
        lots: numbers from 0 to 1 by which ties are broken, the highest first; then the
            lowest pool position comes first. By default, only the positions count.
            Shape [N].

    Returns:
        The similarities and the pool positions, of shape [Q, k] and arbitrary for
        queries after the last batch; and the notes of the rows of this device's share.
    """
    columns, length = _chunk(pool, k, chunk_size)
    num_chunks = -(-pool.size // length)
    last_start = pool.size + -pool.size % pool.step - length if num_chunks > 1 else 0

    def lots_of(positions: jax.Array) -> jax.Array:
        if lots is None:
            return jnp.zeros(positions.shape)
        return jnp.where(positions < 0, 1, lots.at[positions].get(mode="clip"))

    def of_batch(i: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, i * batch_size, batch_size)

    def replace(i: jax.Array, best: _Nearest, new: _Nearest) -> _Nearest:
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(
                x, new, i * batch_size, 0
            ),
            best,
            new,
        )

    def read(best: _Nearest, i: jax.Array) -> tuple[_Nearest, Any]:
        at = jnp.minimum(i * length, last_start)
        embeddings, notes = pool.read(at, length)
        embeddings = widened(embeddings)
        missing = ((0, max(0, columns - length)), (0, 0))
        embeddings = jnp.pad(embeddings, missing)[:columns]
        own = at + jnp.arange(columns, dtype=jnp.int32)
        positions = pool.start + own
        is_present = (own >= i * length) & (own < at + length)
        is_present &= mask.at[positions].get(mode="fill", fill_value=False)
        own_lots = lots_of(positions)[None]

        def compare(j: jax.Array, best: _Nearest) -> _Nearest:
            similarities = similarity(of_batch(j, queries), embeddings)
            # `top_k` sorts -0.0 below 0.0.
            similarities = jnp.where(similarities == 0, 0, similarities)
            last, last_position = (of_batch(j, x)[:, None] for x in after)
            last_lots = lots_of(last_position)
            is_next = (own_lots == last_lots) & (positions[None] > last_position)
            is_next = (similarities == last) & (is_next | (own_lots < last_lots))
            is_next = is_present[None] & (is_next | (similarities < last))
            similarities = jnp.where(is_next, similarities, -jnp.inf)
            earlier = jax.tree.map(lambda x: of_batch(j, x), best)

            similarities, at = _highest(
                (earlier.similarities, similarities),
                None if lots is None else (lots_of(earlier.positions), own_lots),
            )
            here = _take((earlier.positions, positions[None]), at)
            return replace(j, best, _Nearest(similarities, here))

        return jax.lax.fori_loop(0, num_batches, compare, best), notes

    shape = (len(queries), k)
    of_pool = jax.eval_shape(lambda: pool.read(0, length)[0])
    dtype = jnp.promote_types(jnp.result_type(queries, of_pool), jnp.float32)
    none = _Nearest(jnp.full(shape, -jnp.inf, dtype), jnp.full(shape, -1, jnp.int32))
    best, notes = jax.lax.scan(read, none, jnp.arange(num_chunks, dtype=jnp.int32))

    def merge(j: jax.Array, best: _Nearest) -> _Nearest:
        found = jax.tree.map(lambda x: of_batch(j, x), best)
        if pool.axis is not None:
            found = jax.lax.all_gather(found, pool.axis, axis=1, tiled=True)
        similarities, _, positions = jax.lax.sort(
            (-found.similarities, -lots_of(found.positions), found.positions),
            num_keys=3,
        )
        return replace(j, best, _Nearest(-similarities[:, :k], positions[:, :k]))

    best = jax.lax.fori_loop(0, num_batches, merge, best)

    def joined(notes: jax.Array) -> jax.Array:
        before = notes[:-1].reshape(-1, *notes.shape[2:])
        rest = notes[-1][len(before) - last_start :]
        return jnp.concatenate([before, rest])[: pool.size]

    return (best.similarities, best.positions), jax.tree.map(joined, notes)


class _Nearest(NamedTuple):
    similarities: jax.Array  # Shape [Q, k].
    positions: jax.Array  # Shape [Q, k].


def _chunk(pool: Rows, k: int, chunk_size: int) -> tuple[int, int]:
    """Returns the number of columns of a product, and of rows to read for it.

    The number of columns depends on N, not on the share of a device. A small pool is
    split as well, so that several devices can search it.
    """
    most = min(chunk_size, max(2048, -(-pool.num // 8)))
    columns = min(pool.num, max(k, pool.step, most))
    columns += -columns % _GROUP
    if columns >= pool.num:
        return columns, pool.size
    return columns, min(columns - columns % pool.step, pool.size)


_Both = tuple[jax.Array, jax.Array]  # of k earlier results and of a chunk


def _highest(similarities: _Both, lots: _Both | None) -> _Both:
    """Returns the k highest of k earlier similarities and of those of a chunk.

    Lots are only compared if one of several equal similarities is the k-th highest and
    another is not among the k. The loop is a condition: unlike `jax.lax.cond`, it does
    not take the expensive branch each time under `vmap`.

    Args:
        similarities: similarities. Shapes [Q, k] and [Q, columns].
        lots: numbers from 0 to 1 by which ties are broken, the highest first. Shapes
            [Q, k] and [1, columns]. By default, the first come first.

    Returns:
        The highest similarities in any order, and their indices among both. Shapes
        [Q, k].
    """
    k = similarities[0].shape[1]
    if lots is None:
        return _top(similarities, k)
    highest, at = _top(similarities, k + 1)
    # Minima, because XLA on CPU would sort all values if these were sliced here.
    among = jnp.where(jnp.arange(k + 1)[None] < k, highest, jnp.inf)
    lowest, next_one = (x.min(axis=1, keepdims=True) for x in (among, highest))
    is_open = ((lowest == next_one) & (lowest > -jnp.inf)).any()

    def by_lots(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        def places(similarities: jax.Array, lots: jax.Array) -> jax.Array:
            tied = jnp.where(similarities == lowest, lots, -1)
            return jnp.where(similarities > lowest, 2, tied)

        of_earlier, of_chunk = map(places, similarities, lots)
        _, at = _top((of_earlier, of_chunk), k + 1)
        return _take(similarities, at), at, state[2] & False

    highest, at, _ = jax.lax.while_loop(
        lambda state: state[2], by_lots, (highest, at, is_open)
    )
    return highest[:, :k], at[:, :k]


def _top(values: _Both, k: int) -> _Both:
    """Returns the k highest, in descending order, and their indices among both."""
    earlier, (found, column) = values[0], _candidates(values[1], k)
    num = earlier.shape[1]
    highest, at = jax.lax.top_k(jnp.concatenate([earlier, found], axis=1), k)
    return highest, jnp.where(at < num, at, num + column(jnp.maximum(at - num, 0)))


def _take(values: _Both, at: jax.Array) -> jax.Array:
    """Returns the values of indices among both."""
    earlier, found = values
    num = earlier.shape[1]
    return jnp.where(
        at < num,
        jnp.take_along_axis(earlier, jnp.minimum(at, num - 1), axis=1),
        jnp.take_along_axis(found, jnp.maximum(at - num, 0), axis=1),
    )


def _candidates(
    similarities: jax.Array, k: int
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Returns columns that contain the k highest of each row, and their positions.

    The k highest values lie in the k groups of adjacent columns with the highest
    maxima: if one were in another group, each of these k groups would contain a value
    that precedes it. This also holds for ties, because among equal maxima the group of
    lower columns comes first. A maximum is many times cheaper than sorting.

    Args:
        similarities: similarities of each query. Shape [Q, columns].
        k: number of highest values.

    Returns:
        The values in ascending order of their columns, and a function that maps an
        index into them to the original column.
    """
    num_rows, num_columns = similarities.shape
    if num_columns % _GROUP or num_columns < 4 * k * _GROUP:
        return similarities, lambda at: at
    grouped = similarities.reshape(num_rows, -1, _GROUP)
    _, groups = jax.lax.top_k(grouped.max(axis=2), k)
    groups = -jax.lax.top_k(-groups, k)[0]  # in ascending order
    values = jnp.take_along_axis(grouped, groups[:, :, None], axis=1)

    def column(at: jax.Array) -> jax.Array:
        group = jnp.take_along_axis(groups, at // _GROUP, axis=1)
        return group * _GROUP + at % _GROUP

    return values.reshape(num_rows, -1), column
