"""Match the mistakes: query what resembles the validation examples the model fails.

Source: Gudovskiy et al. 2020, Sec. 4.1 - 4.3 and Algorithm 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition.neighbors import before_all, search
from fkjax.base import key_for
from fkjax.fisher.kernel import similarity
from fkjax.parallel.rows import Rows, rows_of

Similarity = Callable[[jax.Array, jax.Array], jax.Array]
"""`similarity(queries [..., L], keys [M, L]) -> [..., M]`, as `fkjax.fisher.kernel`
has."""


def farthest_first(
    key: jax.Array,
    embeddings: jax.Array,
    is_target: jax.Array,
    *,
    num_centers: int,
    similarity: Similarity = similarity,
) -> tuple[jax.Array, jax.Array]:
    """Reduces the targets to centres, each as unlike the earlier ones as can be.

    Starts at a random target; then repeatedly takes the target whose highest
    similarity to the centres so far is the lowest. O(num_centers M L).

    Args:
        key: draws the first centre.
        embeddings: Shape [M, L].
        is_target: which rows are targets. Shape [M] bool.
        num_centers: how many to take; all targets if there are fewer.
        similarity: of embeddings.

    Returns:
        The centres' rows, and which of these are real. Shapes [num_centers].
    """
    start = jnp.where(
        is_target, jax.random.uniform(key, is_target.shape, jnp.float32), -1
    ).argmax()
    taken = jnp.inf  # a taken target, or none at all, is never the lowest
    highest = jnp.where(is_target, -jnp.inf, taken)

    def take(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        centers, is_real, highest = state
        center = jnp.where(i == 0, start, highest.argmin()).astype(jnp.int32)
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
    """The place in the rank-major order at which each pool example is first wanted."""

    rank: jax.Array  # of the example among a centre's neighbours, or _NEVER. Shape [N].
    similarity: jax.Array  # to that centre. Shape [N].
    center: jax.Array  # which. Shape [N].


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
    """Enters lists [B', depth] that begin at any rank: in whatever order they come."""
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
    """The first `budget` examples in the rank-major order; then any, by lot.

    Only those that can be among them are sorted: of a rank, a centre has one example.
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
    """Every centre's nearest neighbour, then every centre's second nearest, and so on.

    Within a rank the centres come in descending similarity, and in their own order
    where that is equal. Repeats are dropped; when the lists give fewer than `budget`,
    the rest is drawn at random.

    Args:
        key: draws what the lists do not give.
        neighbors: pool positions, nearest first. Shape [B', depth].
        similarities: of each neighbour to its centre, -inf for none. Shape [B', depth].
        is_unlabeled: what may be queried. Shape [N] bool.
        budget: B.

    Returns:
        Distinct unlabelled pool positions in the order of the merge; the centre
        (0 .. B'-1) that wanted each, or -1; its similarity, or NaN. Shapes [B].
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
    """How far every centre's list of neighbours has been read."""

    depth: jax.Array  # ranks read. Shape [].
    last: tuple[jax.Array, jax.Array]  # similarity and position read last. Shapes [B'].
    wants: _Wants


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
    """Queries the pool examples nearest to the validation mistakes.

    All mistakes are centres if they are no more than the budget; `farthest_first`
    reduces them to that otherwise. `rank_major_merge` then merges the neighbours of
    all centres, where equal similarities go by the centres' validation positions.

    The lists of neighbours are read a few ranks at a time, for as long as they give
    fewer than `budget` distinct examples: whatever a deeper rank holds comes later in
    the order. Memory beside the pool grows with N + M L, not with N M or N B.

    Args:
        key: for the first centre, and for what the matching leaves open.
        pool: embeddings. Shape [N, L].
        is_unlabeled: Shape [N] bool.
        validation: embeddings. Shape [M, L].
        is_mistake: Shape [M] bool.
        budget: B.
        first_depth: how many ranks to read in the first pass over the pool.
        next_depth: how many in each further pass, if one is needed.
        batch_size: how many centres to compare with the pool at a time. These three
            change the speed, not the result.

    Returns:
        Pool positions; the validation position of the mistake that each answers, or
        -1; the similarity to it, or NaN. Shapes [B].

    Raises:
        ValueError: if the budget is not from 1 to N, or there is no validation set.
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
    """`match` on a pool that may be read or made in parts, by several devices.

    Args:
        key: as all arguments but the pool, that of `match`.
        pool: rows (embedding [L], notes), where notes are small: they are kept of all.
        is_unlabeled: Shape [N] bool.
        validation: Shape [M, L].
        is_mistake: Shape [M] bool.
        budget: B.
        first_depth: see `match`.
        next_depth: see `match`.
        batch_size: see `match`.
        similarity: of embeddings.

    Returns:
        What `match` returns, and the notes of all N rows.
    """
    if not 1 <= budget <= pool.num:
        raise ValueError(
            f"the budget must be from 1 to the {pool.num} examples of the pool, "
            f"got {budget}"
        )
    if len(validation) == 0:
        raise ValueError("matching needs a validation set, got no example")
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
    deepest = min(budget, pool.num)  # one centre's list alone gives the budget there
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
    return indices, targets, scores, pool.gathered(notes)


def _is_center(
    key: jax.Array,
    validation: jax.Array,
    is_mistake: jax.Array,
    budget: int,
    similarity: Similarity,
) -> jax.Array:
    """Which validation examples are centres. Shape [M] bool."""
    if len(validation) <= budget:
        return is_mistake

    def reduced() -> jax.Array:
        centers, is_real = farthest_first(
            key, validation, is_mistake, num_centers=budget, similarity=similarity
        )
        return jnp.zeros_like(is_mistake).at[centers].max(is_real)

    return jax.lax.cond(is_mistake.sum() <= budget, lambda: is_mistake, reduced)
