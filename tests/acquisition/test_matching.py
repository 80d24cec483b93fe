"""Compares the selection of centers and the merge with brute force in Python."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax.acquisition import matching


def brute_farthest_first(embeddings, targets, first, budget):
    centers = [first]
    while len(centers) < min(budget, len(targets)):
        rest = [t for t in targets if t not in centers]
        highest = [max(embeddings[t] @ embeddings[c] for c in centers) for t in rest]
        centers.append(rest[int(np.argmin(highest))])
    return centers


def brute_merge(similarities, centers, budget, lots):
    """Merges dicts `similarities[c][i]` of center c and unlabeled example i.

    Ties are broken by the lots of the examples and by the order of the centers.
    """
    ranked = {
        c: sorted(similarities[c], key=lambda i: (-similarities[c][i], -lots[i]))
        for c in centers
    }
    chosen = []
    depth = max((len(r) for r in ranked.values()), default=0)
    for rank in range(depth):
        present = [c for c in centers if rank < len(ranked[c])]
        for c in sorted(present, key=lambda c: -similarities[c][ranked[c][rank]]):
            example = ranked[c][rank]
            if example not in [e for e, _ in chosen]:
                chosen.append((example, c))
            if len(chosen) == budget:
                return chosen
    return chosen


@st.composite
def problems(draw):
    # Few sizes, so that few programs are compiled.
    num_pool = draw(st.sampled_from([6, 25]))
    num_validation = draw(st.sampled_from([1, 12]))
    budget = draw(st.sampled_from([1, 5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    is_unlabeled = rng.random(num_pool) < draw(st.sampled_from([0.3, 0.7, 1.0]))
    is_unlabeled[rng.permutation(num_pool)[:budget]] = True
    is_mistake = rng.random(num_validation) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return (
        rng.normal(size=(num_pool, 4)).astype(np.float32),
        is_unlabeled,
        rng.normal(size=(num_validation, 4)).astype(np.float32),
        is_mistake,
        budget,
    )


match = jax.jit(matching.match, static_argnames="budget")
farthest_first = jax.jit(matching.farthest_first, static_argnames="num_centers")


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_match_agrees_with_brute_force(problem, seed):
    pool, is_unlabeled, validation, is_mistake, budget = problem
    key = jax.random.key(seed)
    indices, targets, scores = match(key, *map(jnp.asarray, problem[:4]), budget=budget)
    indices, targets = np.asarray(indices), np.asarray(targets)
    assert len(set(indices.tolist())) == budget
    assert is_unlabeled[indices].all()

    mistakes = np.flatnonzero(is_mistake)
    if len(mistakes) == 0:
        assert (targets == -1).all()
        assert np.isnan(scores).all()
        return
    centers, is_real = farthest_first(
        matching.key_for(key, "first center"),
        jnp.asarray(validation),
        jnp.asarray(is_mistake),
        num_centers=budget,
    )
    centers = np.asarray(centers)[np.asarray(is_real)].tolist()
    assert centers == brute_farthest_first(validation, mistakes, centers[0], budget)

    free = np.flatnonzero(is_unlabeled)
    similarities = {c: {i: validation[c] @ pool[i] for i in free} for c in centers}
    expected = brute_merge(similarities, centers, budget, np.zeros(len(pool)))
    assert list(zip(indices.tolist(), targets.tolist(), strict=True)) == expected
    for i, c, score in zip(indices, targets, np.asarray(scores), strict=True):
        np.testing.assert_allclose(score, validation[c] @ pool[i], rtol=1e-4, atol=1e-5)


def test_the_first_center_is_a_random_target():
    embeddings = jnp.eye(10)
    is_target = jnp.arange(10) >= 6
    firsts = {
        int(
            farthest_first(jax.random.key(seed), embeddings, is_target, num_centers=1)[
                0
            ][0]
        )
        for seed in range(40)
    }
    assert firsts == {6, 7, 8, 9}


def test_rank_major_order_by_hand():
    """Example 3 is the nearest neighbor of both centers, and nearer to center 1."""
    neighbors = jnp.array([[3, 0, 1], [3, 4, 0]])
    similarities = jnp.array([[0.5, 0.4, 0.3], [0.9, 0.2, 0.1]])
    indices, centers, scores = matching.rank_major_merge(
        jax.random.key(0), neighbors, similarities, jnp.ones(6, bool), budget=4
    )
    # Rank 1: 3 of center 1 (0.9), again of center 0 (dropped). Rank 2: 0 of center 0
    # (0.4), 4 of center 1 (0.2). Rank 3: 1 of center 0.
    assert indices.tolist() == [3, 0, 4, 1]
    assert centers.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(scores, [0.9, 0.4, 0.2, 0.3])


def test_what_the_lists_do_not_give_is_drawn_at_random():
    neighbors, similarities = jnp.array([[2]]), jnp.array([[1.0]])
    is_unlabeled = jnp.array([True, True, True, False, True, True])
    merge = jax.jit(matching.rank_major_merge, static_argnames="budget")
    drawn = set()
    for seed in range(30):
        indices, centers, scores = merge(
            jax.random.key(seed), neighbors, similarities, is_unlabeled, budget=3
        )
        assert indices[0] == 2
        assert centers.tolist() == [0, -1, -1]
        assert np.isnan(scores).tolist() == [False, True, True]
        assert len(set(indices.tolist())) == 3
        drawn |= set(indices.tolist())
    assert drawn == {0, 1, 2, 4, 5}


@pytest.mark.parametrize("labelled", [0, 7])
def test_permuting_the_pool_permutes_the_query(labelled):
    rng = np.random.default_rng(labelled)
    pool = rng.normal(size=(20, 6)).astype(np.float32)
    validation = rng.normal(size=(15, 6)).astype(np.float32)
    is_unlabeled = np.arange(20) >= labelled
    order, ones = rng.permutation(20), jnp.ones(15, bool)

    def ask(pool, mask):
        arrays = map(jnp.asarray, (pool, mask, validation))
        return match(jax.random.key(0), *arrays, ones, budget=5)

    indices, targets, _ = ask(pool, is_unlabeled)
    permuted, permuted_targets, _ = ask(pool[order], is_unlabeled[order])
    assert order[np.asarray(permuted)].tolist() == indices.tolist()
    assert permuted_targets.tolist() == targets.tolist()


def test_all_but_the_budget_labelled():
    """There are as many unlabeled examples as the budget: all of them are queried."""
    is_unlabeled = np.zeros(30, bool)
    is_unlabeled[[4, 9, 21]] = True
    rng = np.random.default_rng(0)
    indices, *_ = match(
        jax.random.key(0),
        jnp.asarray(rng.normal(size=(30, 4))),
        jnp.asarray(is_unlabeled),
        jnp.asarray(rng.normal(size=(5, 4))),
        jnp.ones(5, bool),
        budget=3,
    )
    assert set(indices.tolist()) == {4, 9, 21}


@functools.cache
def shallow(*search):
    """`match` of a budget of 10, compiled once for each kind of search."""
    return jax.jit(partial(matching.match, budget=10, **dict(search)))


SEARCHES = [
    {"first_depth": 1, "next_depth": 1, "batch_size": 5},
    {"first_depth": 2, "next_depth": 3, "batch_size": 4},
    {},
]


def brute_match(key, pool, is_unlabeled, validation, is_mistake, budget):
    """Merges all ranks of all lists, with ties broken as the key says."""
    centers, is_real = farthest_first(
        matching.key_for(key, "first center"),
        jnp.asarray(validation),
        jnp.asarray(is_mistake),
        num_centers=budget,
    )
    lots = jax.random.uniform(matching.key_for(key, "ties"), len(pool))
    order = jax.random.permutation(
        matching.key_for(key, "ties of centers"), len(validation)
    ).tolist()
    centers = np.asarray(centers)[np.asarray(is_real)].tolist()
    centers = sorted(centers, key=order.index)
    free = np.flatnonzero(is_unlabeled)
    similarities = {c: {i: validation[c] @ pool[i] for i in free} for c in centers}
    return brute_merge(similarities, centers, budget, lots.tolist())


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("levels", [2, 50])
def test_a_shallow_search_gives_what_the_whole_lists_give(search, share, levels):
    """Uses small integers, whose similarities are exact and often equal."""
    ask = shallow(*search.items())
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pool, validation = (
            rng.integers(0, levels, (n, 4)).astype(np.float32) for n in (60, 14)
        )
        is_unlabeled = rng.random(60) < 0.7
        is_mistake = rng.random(14) < share
        is_mistake[seed] = True
        problem = (pool, is_unlabeled, validation, is_mistake)
        key = jax.random.key(seed)
        indices, targets, scores = ask(key, *map(jnp.asarray, problem))
        found = list(zip(indices.tolist(), targets.tolist(), strict=True))
        assert found == brute_match(key, *problem, budget=10)
        expected = [validation[c] @ pool[i] for i, c in found]
        assert scores.tolist() == expected


def by_seeds(pool, validation, budget, num_seeds):
    """Matches all validation examples, with one seed after another."""
    ask = jax.jit(partial(matching.match, budget=budget))
    masks = (jnp.ones(len(x), bool) for x in (pool, validation))
    problem = (pool, next(masks), validation, next(masks))
    found = [ask(jax.random.key(seed), *problem) for seed in range(num_seeds)]
    return (np.stack(column) for column in zip(*found, strict=True))


@pytest.mark.parametrize("num_pool", [40, 5000])
def test_of_equally_similar_examples_some_are_matched_at_random(num_pool):
    """A pool of 5,000 is searched in three chunks, and each of them by groups."""
    num_seeds, budget, bins = 300, 4, 10
    pool, validation = jnp.ones((num_pool, 1)), jnp.ones((1, 1))
    indices, targets, scores = by_seeds(pool, validation, budget, num_seeds)
    assert (targets == 0).all()
    assert (scores == 1).all()
    assert {len(set(row)) for row in indices.tolist()} == {budget}
    for ranks in (slice(None), slice(0, 1), slice(3, 4)):
        picks = indices[:, ranks].ravel()
        counts = np.bincount(picks * bins // num_pool, minlength=bins)
        expected = picks.size / bins
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < 28  # exceeded with probability 0.001 by 9 degrees
    assert len({tuple(row) for row in indices.tolist()}) > 0.9 * num_seeds


def test_mistakes_of_equal_similarities_are_answered_in_random_order():
    indices, targets, _ = by_seeds(jnp.eye(6), jnp.eye(6), 6, 120)
    np.testing.assert_array_equal(indices, targets)
    for rank in range(6):
        assert np.bincount(targets[:, rank], minlength=6).min() > 8
    assert len({tuple(row) for row in targets.tolist()}) > 80


def test_equally_dissimilar_targets_become_centers_at_random():
    embeddings = jnp.eye(6)
    counts = np.zeros(6, int)
    for seed in range(120):
        centers, _ = farthest_first(
            jax.random.key(seed), embeddings, jnp.arange(6) < 5, num_centers=2
        )
        assert len(set(centers.tolist())) == 2
        counts[centers[1]] += 1
    assert counts[5] == 0
    assert counts[:5].min() > 10


@pytest.mark.parametrize("num_mistakes", [1, 40])
def test_mistakes_that_all_want_the_same_are_searched_to_the_budgets_depth(
    num_mistakes,
):
    """Reads 600 ranks: a first pass of 16 and three passes of 256."""
    rng = np.random.default_rng(0)
    pool = rng.permutation(900)[:, None].astype(np.float32)
    indices, targets, _ = match(
        jax.random.key(0),
        jnp.asarray(pool),
        jnp.ones(900, bool),
        jnp.ones((40, 1)),
        jnp.arange(40) >= 40 - num_mistakes,
        budget=600,
    )
    assert indices.tolist() == np.argsort(-pool[:, 0])[:600].tolist()
    (target,) = set(targets.tolist())  # one of the mistakes, which are all equal
    assert target >= 40 - num_mistakes


def test_labelled_examples_are_never_reached_by_a_deep_search():
    """Queries all 50 unlabeled examples of a pool of 400."""
    rng = np.random.default_rng(0)
    is_unlabeled = np.zeros(400, bool)
    is_unlabeled[rng.permutation(400)[:50]] = True
    pool = rng.normal(size=(400, 3)).astype(np.float32)
    indices, targets, _ = match(
        jax.random.key(0),
        jnp.asarray(pool),
        jnp.asarray(is_unlabeled),
        jnp.asarray(pool[:2]),
        jnp.ones(2, bool),
        budget=50,
    )
    assert set(indices.tolist()) == set(np.flatnonzero(is_unlabeled).tolist())
    assert set(targets.tolist()) == {0, 1}


def test_memory_does_not_grow_with_the_pool_times_the_budget():
    describe = jax.ShapeDtypeStruct
    arguments = (
        describe((200_000, 8), jnp.float32),
        describe((200_000,), bool),
        describe((2000, 8), jnp.float32),
        describe((2000,), bool),
    )
    compiled = (
        jax.jit(partial(matching.match, budget=2000))
        .lower(jax.random.key(0), *arguments)
        .compile()
    )
    similarities = 200_000 * 2000 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < similarities / 20


@pytest.mark.parametrize(
    ("num_validation", "budget", "message"),
    [(3, 0, "from 1 to 5"), (3, 6, "from 1 to 5"), (0, 2, "validation set")],
)
def test_refuses_an_impossible_budget_and_no_validation(
    num_validation, budget, message
):
    with pytest.raises(ValueError, match=message):
        matching.match(
            jax.random.key(0),
            jnp.zeros((5, 2)),
            jnp.ones(5, bool),
            jnp.zeros((num_validation, 2)),
            jnp.ones(num_validation, bool),
            budget=budget,
        )
