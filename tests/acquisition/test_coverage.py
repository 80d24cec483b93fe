"""Compares the strategies that cover the pool with their definitions in NumPy."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.badge import badge
from fkjax.acquisition.coverage import cluster_sizes
from fkjax.parallel.rows import rows_of
from tests.acquisition.outputs import (
    BUDGET,
    CLASSES,
    MODEL,
    WIDTH,
    ask,
    check_greedy,
    scene_of,
    softmax,
    view_of,
)

NAMES = ["core_set", "lcmd"]


def distances(scene, picks, trains_on_validation=True):
    """The squared distances to all centers, and the largest. Shape [N, centers + 1]."""
    at = np.append(np.flatnonzero(scene.is_labeled), picks).astype(int)
    parts = [scene.phi[at], *([scene.validation] if trains_on_validation else [])]
    centers = np.concatenate(parts)
    found = ((scene.phi[:, None] - centers[None]) ** 2).sum(axis=2)
    return np.append(found, np.full((len(scene.phi), 1), 4.0), axis=1)


def gain_of(name, scene, picks, trains_on_validation=True):
    found = distances(scene, picks, trains_on_validation)
    nearest, center = found.min(axis=1), found.argmin(axis=1)
    if name == "core_set":
        return nearest
    is_open = scene.is_open & ~np.isin(np.arange(len(nearest)), picks)
    sizes = np.bincount(center, np.where(is_open, nearest, 0))
    return np.where(center == sizes.argmax(), nearest, -np.inf)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trains_on_validation", [True, False])
def test_each_pick_is_the_farthest_by_definition(name, trains_on_validation):
    for seed in range(3):
        view, _ = view_of(seed)
        scene = scene_of(view)
        query = ask(name, view, trains_on_validation=trains_on_validation)
        check_greedy(
            query,
            scene,
            lambda picks, s=scene: gain_of(name, s, picks, trains_on_validation),
        )


@pytest.mark.parametrize("name", NAMES)
def test_without_a_center_the_first_pick_is_random(name):
    view, _ = view_of(num=40)
    fresh = view._replace(is_unlabeled=jnp.ones(40, bool), labels=jnp.full(40, -1))
    queries = [
        ask(name, fresh, key=key, trains_on_validation=False) for key in range(5)
    ]
    assert len({int(query.indices[0]) for query in queries}) > 1
    assert all(query.scores[0] == 4 for query in queries)


@pytest.mark.parametrize("name", NAMES)
def test_copies_come_after_all_others(name):
    view, _ = view_of(9, num=40)
    rows = np.arange(40) % 8
    copied = view._replace(
        pool=view.pool[rows], is_unlabeled=jnp.ones(40, bool), labels=jnp.full(40, -1)
    )
    query = ask(name, copied, trains_on_validation=False)
    assert set(query.indices[:8] % 8) == set(range(8))
    assert len(set(query.indices.tolist())) == BUDGET


def test_sizes_of_clusters_do_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    distance = (4 * rng.random(5000)).astype(np.float32)
    distance[:3], center = 4, rng.integers(0, 7, 5000)
    order = rng.permutation(5000)

    def sizes(at):
        made = jnp.asarray(distance[at]), jnp.asarray(center[at])
        return cluster_sizes(rows_of(made), *made, 8)

    np.testing.assert_array_equal(sizes(np.arange(5000)), sizes(order))
    exact = np.bincount(center, distance.astype(float), minlength=8)
    np.testing.assert_allclose(sizes(order), exact, rtol=1e-6)


# BADGE


@functools.cache
def drawn(budget, num_keys):
    made = badge(MODEL, taps=MODEL.taps, budget=budget)
    keys = jax.random.split(jax.random.key(0), num_keys)
    return jax.jit(lambda view: jax.vmap(made.query, (0, None))(keys, view))


def embeddings(view):
    """The gradients of the weights of the last layer for the predicted class."""
    rows = np.asarray(view.pool, float)[:, 0, 0]
    p = softmax(rows[:, WIDTH:])
    g = p - np.eye(CLASSES)[p.argmax(axis=1)]
    return (rows[:, :WIDTH, None] * g[:, None]).reshape(len(rows), -1)


def test_badge_draws_in_proportion_to_the_squared_distance():
    view, _ = view_of(1)
    made = embeddings(view)
    is_open = np.asarray(view.is_unlabeled)
    picks = np.asarray(drawn(3, 4000)(view).indices)
    norms = np.where(is_open, (made**2).sum(axis=1), 0)
    assert (picks[:, 0] == norms.argmax()).all()
    second = ((made - made[picks[0, 0]]) ** 2).sum(axis=1)
    check_frequencies(picks[:, 1], np.where(is_open, second, 0))
    most = np.bincount(picks[:, 1]).argmax()
    third = np.minimum(second, ((made - made[most]) ** 2).sum(axis=1))
    check_frequencies(picks[picks[:, 1] == most, 2], np.where(is_open, third, 0))
    assert all(len(set(row)) == 3 for row in picks[:100].tolist())


def check_frequencies(drawn, weights):
    share = weights / weights.sum()
    found = np.bincount(drawn, minlength=len(share)) / len(drawn)
    spread = np.sqrt(share * (1 - share) / len(drawn))
    assert (abs(found - share) <= 5 * spread + 1e-3).all()


def test_badge_reports_what_is_not_finite_and_draws_copies_last():
    view, _ = view_of(2)
    unlabeled = int(np.flatnonzero(view.is_unlabeled)[3])
    bad = view._replace(pool=view.pool.at[unlabeled].set(jnp.nan))
    found = SimpleNamespace(**drawn(3, 4000)(bad)._asdict())
    assert np.flatnonzero(found.is_bad[0]).tolist() == [unlabeled]
    copied = view._replace(
        pool=view.pool.at[:].set(view.pool[:1]).at[5].set(view.pool[6]),
        is_unlabeled=jnp.ones(40, bool),
    )
    picks = np.asarray(drawn(3, 4000)(copied).indices)[:50]
    assert all(5 in row[:2] and len(set(row)) == 3 for row in picks.tolist())
