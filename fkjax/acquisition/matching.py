"""Matching: the pool examples most similar to misclassified validation examples.

Source: Gudovskiy et al. 2020, Sec. 4.1 - 4.3 and Algorithm 1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition.neighbors import before_all, search
from fkjax.base import key_for
from fkjax.fisher.kernel import similarity
from fkjax.parallel.rows import Rows, rows_of

Similarity = Callable[[jax.Array, jax.Array], jax.Array]
"""`similarity(queries [..., L], keys [M, L]) -> [..., M]`.

Such as `fkjax.fisher.kernel.similarity`.
"""


@functools.partial(jax.jit, static_argnames=("num_centers", "similarity"))
def farthest_first(
    key: jax.Array,
    embeddings: jax.Array,
    is_target: jax.Array,
    *,
    num_centers: int,
    similarity: Similarity = similarity,
) -> tuple[jax.Array, jax.Array]:
    """Selects targets as centers that are as dissimilar as possible.

    The first center is a random target. Each next center is the target whose highest
    similarity to the previous centers is the lowest, with ties broken at random. The
    cost is O(num_centers M L).

    Args:
        key: random key of the first center and of ties.
        embeddings: embeddings of the candidates. Shape [M, L].
        is_target: whether each row is a target. Shape [M] bool.
        num_centers: number of centers to select. If there are fewer targets, all of
            them are selected.
        similarity: similarity of embeddings.

    Returns:
        The rows of the centers, and whether each of these entries is valid. Shapes
        [num_centers].
    """
    lots = jax.random.uniform(key, is_target.shape, jnp.float32)
    lots = jnp.where(is_target, lots, -1)
    taken = jnp.inf  # so that a selected row, or one that is no target, is not lowest
    highest = jnp.where(is_target, -jnp.inf, taken)

    def take(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        centers, is_real, highest = state
        lowest = jnp.where(highest == highest.min(), lots, -1)
        center = lowest.argmax().astype(jnp.int32)
        centers = centers.at[i].set(center)
        is_real = is_real.at[i].set(highest[center] < taken)
        to_center = similarity(embeddings[center], embeddings)
        highest = jnp.maximum(highest, to_center).at[center].set(taken)
        return centers, is_real, highest

    centers = jnp.zeros(num_centers, jnp.int32)
    is_real = jnp.zeros(num_centers, bool)
    centers, is_real, _ = jax.lax.fori_loop(
        0, num_centers, take, (centers, is_real, highest)
    )
    return centers, is_real


class _Wants(NamedTuple):
    """The first position of each pool example in the rank-major order."""

    rank: jax.Array  # Rank among the neighbors of a center, or _NEVER. Shape [N].
    similarity: jax.Array  # Similarity to that center. Shape [N].
    center: jax.Array  # Index of that center. Shape [N].


_NEVER = jnp.iinfo(jnp.int32).max


def _no_wants(num_pool: int) -> _Wants:
    never = jnp.full(num_pool, _NEVER, jnp.int32)
    return _Wants(never, jnp.full(num_pool, -jnp.inf), never)


def _want(
    wants: _Wants,
    neighbors: jax.Array,
    similarities: jax.Array,
    ranks: jax.Array,
    centers: jax.Array,
) -> _Wants:
    """Adds lists of neighbors [B', depth]; the order of the calls does not matter."""
    rank = jnp.where(similarities > -jnp.inf, ranks, _NEVER)
    center = jnp.broadcast_to(centers[:, None], rank.shape)
    first_rank = wants.rank.at[neighbors].min(rank)
    is_first = (rank < _NEVER) & (rank == first_rank[neighbors])
    is_kept = wants.rank == first_rank

    highest = jnp.where(is_kept, wants.similarity, -jnp.inf)
    highest = highest.at[neighbors].max(jnp.where(is_first, similarities, -jnp.inf))
    is_first &= similarities == highest[neighbors]
    is_kept &= wants.similarity == highest

    first_center = jnp.where(is_kept, wants.center, _NEVER)
    first_center = first_center.at[neighbors].min(jnp.where(is_first, center, _NEVER))
    return _Wants(first_rank, highest, first_center)


def _first_wanted(
    key: jax.Array,
    wants: _Wants,
    is_unlabeled: jax.Array,
    *,
    budget: int,
    num_centers: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the first `budget` examples of the rank-major order.

    If there are fewer, the remaining ones are drawn at random. Only examples up to the
    highest rank that is needed are sorted; each center has one example of each rank.
    """
    num_pool = is_unlabeled.size
    rank = jnp.where(is_unlabeled, wants.rank, _NEVER)
    is_wanted = rank < _NEVER
    last_rank = -jax.lax.top_k(-rank, budget)[0][-1]
    (near,) = jnp.nonzero(
        is_wanted & (rank <= last_rank),
        size=min(budget + num_centers, num_pool),
        fill_value=num_pool,
    )

    def of_near(x: jax.Array) -> jax.Array:
        return x.at[near].get(mode="fill", fill_value=_NEVER)

    *_, wanted = jax.lax.sort(
        (of_near(rank), -of_near(wants.similarity), of_near(wants.center), near),
        num_keys=4,
    )
    lot = jax.random.uniform(key, is_unlabeled.shape, jnp.float32)
    _, drawn = jax.lax.top_k(jnp.where(is_unlabeled & ~is_wanted, lot, -1), budget)
    place, num_wanted = jnp.arange(budget), is_wanted.sum()
    indices = jnp.where(
        place < num_wanted, wanted[:budget], drawn[jnp.maximum(place - num_wanted, 0)]
    )
    is_wanted = is_wanted[indices]
    return (
        indices,
        jnp.where(is_wanted, wants.center[indices], -1),
        jnp.where(is_wanted, wants.similarity[indices], jnp.nan),
    )


def rank_major_merge(
    key: jax.Array,
    neighbors: jax.Array,
    similarities: jax.Array,
    is_unlabeled: jax.Array,
    *,
    budget: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Merges lists of neighbors: all nearest neighbors, then all second nearest, etc.

    Within a rank, the neighbors are sorted by descending similarity, then by the index
    of the center. Repeated examples are dropped. If the lists contain fewer than
    `budget` examples, the remaining ones are drawn at random.

    Args:
        key: random key of the examples that are drawn at random.
        neighbors: pool positions of the neighbors of each center, nearest first. Shape
            [B', depth].
        similarities: similarity of each neighbor to its center, -inf for a missing
            neighbor. Shape [B', depth].
        is_unlabeled: whether each pool example can be queried. Shape [N] bool.
        budget: number of examples to query, B.

    Returns:
        Distinct unlabeled pool positions in the order of the merge; the center
        (0 .. B'-1) of each, or -1 if drawn at random; its similarity to that center, or
        NaN. Shapes [B].
    """
    num_centers, depth = neighbors.shape
    wants = _want(
        _no_wants(is_unlabeled.size),
        neighbors,
        similarities,
        jnp.arange(depth, dtype=jnp.int32),
        jnp.arange(num_centers, dtype=jnp.int32),
    )
    return _first_wanted(
        key, wants, is_unlabeled, budget=budget, num_centers=num_centers
    )


class _Search(NamedTuple):
    """The state of the search for the neighbors of all centers."""

    depth: jax.Array  # Number of ranks that have been read. Shape [].
    last: tuple[jax.Array, jax.Array]  # Last similarity and position. Shapes [B'].
    wants: _Wants


@functools.partial(
    jax.jit, static_argnames=("budget", "first_depth", "next_depth", "batch_size")
)
def match(
    key: jax.Array,
    pool: jax.Array,
    is_unlabeled: jax.Array,
    validation: jax.Array,
    is_mistake: jax.Array,
    *,
    budget: int,
    first_depth: int = 16,
    next_depth: int = 256,
    batch_size: int = 256,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the pool examples that are most similar to the validation mistakes.

    If there are no more mistakes than the budget, all of them are centers; otherwise
    `farthest_first` selects as many centers as the budget. `rank_major_merge` then
    merges the neighbors of all centers. Ties are broken at random: of pool examples
    that are equally similar to a center, and of centers to which examples of the same
    rank are equally similar. All centers share one random order of the pool.

    The lists of neighbors are read a few ranks at a time, until they contain `budget`
    distinct examples: examples of a higher rank come later in the order. The memory
    needed besides the pool grows with N + M L, not with N M or N B.

    Args:
        key: random key of the first center, of ties and of examples drawn at random.
        pool: embeddings of the pool. Shape [N, L].
        is_unlabeled: whether each pool example can be queried. Shape [N] bool.
        validation: embeddings of the validation set. Shape [M, L].
        is_mistake: whether each validation example is misclassified. Shape [M] bool.
        budget: number of examples to query, B.
        first_depth: number of ranks to read in the first pass over the pool.
        next_depth: number of ranks to read in each further pass, if one is needed.
        batch_size: number of centers to compare with the pool at a time. Like the two
            depths, it affects the speed, not the result.

    Returns:
        The pool positions of the query; the validation position of the mistake that
        each was matched to, or -1 if drawn at random; the similarity to that mistake,
        or NaN. Shapes [B].

    Raises:
        ValueError: if the budget is not in 1..N, or the validation set is empty.
    """
    return match_rows(
        key,
        rows_of((pool, ())),
        is_unlabeled,
        validation,
        is_mistake,
        budget=budget,
        first_depth=first_depth,
        next_depth=next_depth,
        batch_size=batch_size,
    )[:3]


def match_rows(
    key: jax.Array,
    pool: Rows,
    is_unlabeled: jax.Array,
    validation: jax.Array,
    is_mistake: jax.Array,
    *,
    budget: int,
    first_depth: int = 16,
    next_depth: int = 256,
    batch_size: int = 256,
    similarity: Similarity = similarity,
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Runs `match` on a pool that is read or computed in parts, by several devices.

    Args:
        key: see `match`.
        pool: rows (embedding [L], notes). The notes of all rows are kept in memory.
        is_unlabeled: see `match`.
        validation: see `match`.
        is_mistake: see `match`.
        budget: see `match`.
        first_depth: see `match`.
        next_depth: see `match`.
        batch_size: see `match`.
        similarity: similarity of embeddings.

    Returns:
        The results of `match`, and the notes of all N rows.

    Raises:
        ValueError: see `match`.
    """
    if not 1 <= budget <= pool.num:
        raise ValueError(
            f"the budget must be from 1 to {pool.num}, the number of examples of the "
            f"pool, got {budget}"
        )
    if len(validation) == 0:
        raise ValueError("matching needs a validation set, got one without examples")
    num_centers = min(budget, len(validation))
    batch = min(batch_size, num_centers)
    is_center = _is_center(
        key_for(key, "first center"), validation, is_mistake, budget, similarity
    )
    centers = jnp.flatnonzero(
        is_center, size=num_centers + -num_centers % batch, fill_value=len(validation)
    ).astype(jnp.int32)
    num_batches = (is_center.sum() + batch - 1) // batch
    queries = validation.at[centers].get(mode="clip")
    lots = jax.random.uniform(key_for(key, "ties"), (pool.num,), jnp.float32)
    # The places of the centers among each other, by which ties of centers are broken.
    order = jax.random.permutation(key_for(key, "ties of centers"), len(validation))
    order = order.astype(jnp.int32)
    places = jnp.argsort(order).astype(jnp.int32)

    def read(depth: int, now: _Search) -> tuple[_Search, Any]:
        ranks = now.depth + jnp.arange(depth, dtype=jnp.int32)
        nearest, notes = search(
            queries,
            pool,
            k=depth,
            mask=is_unlabeled,
            after=now.last,
            batch_size=batch,
            num_batches=num_batches,
            similarity=similarity,
            lots=lots,
        )

        def want_batch(
            i: jax.Array, state: tuple[tuple[jax.Array, jax.Array], _Wants]
        ) -> tuple[tuple[jax.Array, jax.Array], _Wants]:
            last, wants = state
            slots = i * batch + jnp.arange(batch)
            chosen = centers[slots]
            similarities, neighbors = (x[slots] for x in nearest)
            is_real = (chosen < len(validation))[:, None]
            similarities = jnp.where(is_real, similarities, -jnp.inf)
            chosen = places.at[chosen].get(mode="clip")
            wants = _want(wants, neighbors, similarities, ranks, chosen)
            last = (
                last[0].at[slots].set(similarities[:, -1]),
                last[1].at[slots].set(neighbors[:, -1]),
            )
            return last, wants

        last, wants = jax.lax.fori_loop(
            0, num_batches, want_batch, (now.last, now.wants)
        )
        return _Search(now.depth + depth, last, wants), notes

    def unfinished(now: _Search) -> jax.Array:
        num_wanted = (now.wants.rank < _NEVER).sum()
        return (num_wanted < budget) & (now.depth < deepest)

    now = _Search(jnp.int32(0), before_all(len(centers)), _no_wants(pool.num))
    deepest = min(budget, pool.num)  # at which the list of one center is sufficient
    now, notes = read(min(first_depth, deepest), now)
    if first_depth < deepest:
        depth = min(next_depth, deepest)
        now = jax.lax.while_loop(unfinished, lambda now: read(depth, now)[0], now)
    indices, targets, scores = _first_wanted(
        key_for(key, "fill"),
        now.wants,
        is_unlabeled,
        budget=budget,
        num_centers=len(centers),
    )
    targets = jnp.where(targets < 0, -1, order[targets])
    return indices, targets, scores, pool.gathered(notes)


def _is_center(
    key: jax.Array,
    validation: jax.Array,
    is_mistake: jax.Array,
    budget: int,
    similarity: Similarity,
) -> jax.Array:
    """Returns whether each validation example is a center. Shape [M] bool."""
    if len(validation) <= budget:
        return is_mistake

    def reduced() -> jax.Array:
        centers, is_real = farthest_first(
            key, validation, is_mistake, num_centers=budget, similarity=similarity
        )
        return jnp.zeros_like(is_mistake).at[centers].max(is_real)

    return jax.lax.cond(is_mistake.sum() <= budget, lambda: is_mistake, reduced)
