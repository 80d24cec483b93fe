"""Nearest neighbours in a pool of any size: exact top-k by inner product, streamed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fkjax.kernel import similarity

_GROUP = 32
"""Pool rows that share one maximum while a chunk is searched."""


def top_k_streamed(
    queries: jax.Array,
    pool: jax.Array,
    *,
    k: int,
    mask: jax.Array | None = None,
    after: tuple[jax.Array, jax.Array] | None = None,
    chunk_size: int = 8192,
) -> tuple[jax.Array, jax.Array]:
    """The k pool rows most similar to each query, nearest first.

    What `jax.lax.top_k` gives on all Q x N similarities, ties included (the lowest
    pool position first; -0.0 counts as 0.0), while no more than 2 Q x chunk_size of
    them exist at a time.

    >>> pool = jnp.array([[0.0], [3.0], [1.0], [3.0]])
    >>> similarities, indices = top_k_streamed(jnp.ones((1, 1)), pool, k=3)
    >>> indices.tolist(), similarities.tolist()
    ([[1, 3, 2]], [[3.0, 3.0, 1.0]])

    Args:
        queries: Shape [Q, L].
        pool: Shape [N, L].
        k: how many to find, at most N.
        mask: which pool rows there are; the others are at -inf. Shape [N] bool.
        after: the similarity and pool position of the last neighbour of each query
            that is known already: that one and those before it are at -inf, too, so
            that the next k are found. Shapes [Q].
        chunk_size: pool rows to compare at a time, or k where that is more. It
            changes the speed, not the result.

    Returns:
        Similarities and pool positions. Shapes [Q, k].

    Raises:
        ValueError: if the shapes do not agree, or k or the chunk size is impossible.
    """
    if queries.ndim != 2 or pool.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ValueError(
            "queries [Q, L] and a pool [N, L] must be rows of one length, got "
            f"{queries.shape} and {pool.shape}"
        )
    if not 1 <= k <= len(pool):
        raise ValueError(f"k must be from 1 to the {len(pool)} rows of the pool: {k}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, got {chunk_size}")
    if mask is not None and mask.shape != (len(pool),):
        raise ValueError(
            f"mask must have one entry for each pool row, {(len(pool),)}, "
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
    chunk = min(max(chunk_size, k), len(pool))
    num_chunks = len(pool) // chunk
    first = len(pool) - (num_chunks - 1) * chunk  # takes the remainder: no padding

    def compare(start: int | jax.Array, size: int) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(pool, start, size)
        similarities = similarity(queries, rows)
        similarities = jnp.where(similarities == 0, 0, similarities)  # -0.0 < 0.0 here
        if mask is not None:
            present = jax.lax.dynamic_slice_in_dim(mask, start, size)
            similarities = jnp.where(present, similarities, -jnp.inf)
        if after is not None:
            last, last_index = (x[:, None] for x in after)
            is_later = start + jnp.arange(size) > last_index
            is_next = (similarities < last) | ((similarities == last) & is_later)
            similarities = jnp.where(is_next, similarities, -jnp.inf)
        return similarities

    def merge(i: jax.Array, best: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        start = first + i * chunk
        similarities, column = _candidates(compare(start, chunk), k)
        # The earlier chunks' come first, and so do they win a tie.
        similarities = jnp.concatenate([best[0], similarities], axis=1)
        similarities, at = jax.lax.top_k(similarities, k)
        earlier = jnp.take_along_axis(best[1], jnp.minimum(at, k - 1), axis=1)
        here = start + column(jnp.maximum(at - k, 0))
        return similarities, jnp.where(at < k, earlier, here).astype(jnp.int32)

    best = tuple(jax.lax.top_k(compare(0, first), k))
    similarities, indices = jax.lax.fori_loop(0, num_chunks - 1, merge, best)
    return similarities, indices


_top_k_streamed = jax.jit(_streamed, static_argnames=("k", "chunk_size"))


def _candidates(
    similarities: jax.Array, k: int
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Columns that hold each row's k highest, in order, and what column each was.

    The k highest lie in the k groups of adjacent columns with the highest maxima: were
    one in another group, each of those k would hold a value before it. That holds for
    ties as well, because a group of lower columns comes first among equal maxima. A
    maximum is many times cheaper than a place in a heap.
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
