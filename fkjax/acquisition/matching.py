"""Match the mistakes: query what resembles the validation examples the model fails.

Source: Gudovskiy et al. 2020, Sec. 4.1 - 4.3 and Algorithm 1.
"""

import jax
import jax.numpy as jnp

from fkjax.base import key_for
from fkjax.kernel import similarity


def farthest_first(
    key: jax.Array, embeddings: jax.Array, is_target: jax.Array, *, num_centers: int
) -> tuple[jax.Array, jax.Array]:
    """Reduces the targets to centres, each as unlike the earlier ones as can be.

    Starts at a random target; then repeatedly takes the target whose highest
    similarity to the centres so far is the lowest. O(num_centers M L).

    Args:
        key: draws the first centre.
        embeddings: Shape [M, L].
        is_target: which rows are targets. Shape [M] bool.
        num_centers: how many to take; all targets if there are fewer.

    Returns:
        The centres' rows, and which of these are real. Shapes [num_centers].
    """
    start = jnp.where(is_target, jax.random.uniform(key, is_target.shape), -1).argmax()
    taken = jnp.inf  # a taken target, or none at all, is never the lowest
    highest = jnp.where(is_target, -jnp.inf, taken)

    def take(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        centers, is_real, highest = state
        center = jnp.where(i == 0, start, highest.argmin())
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


def rank_major_merge(
    key: jax.Array,
    neighbors: jax.Array,
    similarities: jax.Array,
    is_unlabeled: jax.Array,
    *,
    budget: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every centre's nearest neighbour, then every centre's second nearest, and so on.

    Within a rank the centres come in descending similarity. Repeats are dropped; when
    the lists give fewer than `budget`, the rest is drawn at random.

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
    order = jnp.argsort(-similarities, axis=0, stable=True)  # centres within a rank
    center = order.T.reshape(-1)
    candidate, score = (
        jnp.take_along_axis(x, order, axis=0).T.reshape(-1)
        for x in (neighbors, similarities)
    )

    last = candidate.size
    place = jnp.where(score > -jnp.inf, jnp.arange(last), last)
    first_place = jnp.full(is_unlabeled.shape, last).at[candidate].min(place)
    lot = jnp.argsort(jax.random.uniform(key, is_unlabeled.shape))
    turn = jnp.where(first_place < last, first_place, last + lot)
    turn = jnp.where(is_unlabeled, turn, jnp.iinfo(turn.dtype).max)
    _, indices = jax.lax.top_k(-turn, budget)

    place = first_place[indices]
    is_wanted = place < last
    place = jnp.minimum(place, last - 1)
    return (
        indices,
        jnp.where(is_wanted, center[place], -1),
        jnp.where(is_wanted, score[place], jnp.nan),
    )


def match(
    key: jax.Array,
    pool: jax.Array,
    is_unlabeled: jax.Array,
    validation: jax.Array,
    is_mistake: jax.Array,
    *,
    budget: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries the pool examples nearest to the validation mistakes.

    Args:
        key: for the first centre, and for what the matching leaves open.
        pool: embeddings. Shape [N, L].
        is_unlabeled: Shape [N] bool.
        validation: embeddings. Shape [M, L].
        is_mistake: Shape [M] bool.
        budget: B.

    Returns:
        Pool positions; the validation position of the mistake that each answers, or
        -1; the similarity to it, or NaN. Shapes [B].
    """
    centers, is_real = farthest_first(
        key_for(key, "first center"), validation, is_mistake, num_centers=budget
    )
    similarities = similarity(validation[centers], pool)
    similarities = jnp.where(is_real[:, None] & is_unlabeled, similarities, -jnp.inf)
    similarities, neighbors = jax.lax.top_k(similarities, min(budget, len(pool)))
    indices, answered, scores = rank_major_merge(
        key_for(key, "fill"), neighbors, similarities, is_unlabeled, budget=budget
    )
    return indices, jnp.where(answered < 0, -1, centers[answered]), scores
