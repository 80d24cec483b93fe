"""Compares the strategies that fill the need of classes with NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import STRATEGIES, balance_oracle
from tests.acquisition.outputs import (
    BUDGET,
    CLASSES,
    KERNEL,
    MODEL,
    ask,
    check_greedy,
    scene_of,
    view_of,
)
from tests.acquisition.test_complement import gain_of as gain_of_ratio


def score_of(name, scene, picks):
    if name.endswith("ratio"):
        return gain_of_ratio("fisher_ratio", scene, picks)
    first, second = np.sort(scene.p, axis=1)[:, :-3:-1].T
    return 1 - (first - second)


def need_of(scene, picks):
    counts = scene.r[scene.is_labeled].sum(axis=0)
    counts += np.bincount(scene.labels, minlength=CLASSES)
    return (counts.sum() + BUDGET) * scene.pi - counts - scene.r[picks].sum(axis=0)


def gain_of(name, scene, picks, is_soft=False):
    score, need = score_of(name, scene, picks), need_of(scene, picks)
    if is_soft:
        return score * (scene.r @ np.maximum(need, 0) + 1e-6)
    left = scene.is_open.copy()
    left[picks] = False
    classes = scene.r.argmax(axis=1)
    need[~np.isin(range(CLASSES), classes[left])] = -np.inf
    if need.max() <= 0:
        return score
    return np.where(classes == need.argmax(), score, -np.inf)


@pytest.mark.parametrize("name", ["class_need_margin", "class_need_ratio"])
def test_each_pick_is_the_best_of_the_class_most_in_need(name):
    for seed in range(3):
        view, _ = view_of(seed)
        scene = scene_of(view)
        check_greedy(
            ask(name, view), scene, lambda picks, s=scene: gain_of(name, s, picks)
        )


def test_a_soft_need_is_a_factor_of_the_score():
    make = functools.partial(STRATEGIES["class_need_ratio"], is_soft=True)
    strategy = make(
        MODEL,
        taps=MODEL.taps,
        budget=BUDGET,
        kernel=KERNEL,
        trains_on_validation=True,
    )
    view, _ = view_of(3)
    scene = scene_of(view)
    query = jax.tree.map(np.asarray, jax.jit(strategy.query)(jax.random.key(0), view))
    check_greedy(
        query, scene, lambda picks: gain_of("class_need_ratio", scene, picks, True)
    )


def test_a_class_that_the_pool_lacks_does_not_hold_up_the_others():
    view, _ = view_of(4, pool_classes=(0, 1))
    scene = scene_of(view)
    picks = ask("class_need_margin", view).indices
    left = need_of(scene, picks)
    assert left[:2].max() <= 0 < left[2]


def test_the_oracle_balances_the_classes_by_the_hidden_labels():
    rng = np.random.default_rng(0)
    truth = rng.choice(CLASSES, 60, p=[0.7, 0.2, 0.1])
    is_open = rng.random(60) < 0.7
    view = view_of(num=60)[0]._replace(
        is_unlabeled=jnp.asarray(is_open), pool_labels=jnp.asarray(truth)
    )
    query = jax.jit(balance_oracle(MODEL, budget=BUDGET).query)
    found = [np.asarray(query(jax.random.key(key), view).indices) for key in range(20)]
    labeled = np.bincount(truth[~is_open], minlength=CLASSES)
    num_open = np.bincount(truth[is_open], minlength=CLASSES)
    left = labeled.copy()
    for _ in range(BUDGET):  # one example of the smallest class that has any
        open_counts = num_open - (left - labeled)
        left[np.where(open_counts > 0, left, 10**6).argmin()] += 1
    for indices in found:
        assert len(set(indices.tolist())) == BUDGET and is_open[indices].all()
        after = labeled + np.bincount(truth[indices], minlength=CLASSES)
        assert sorted(after) == sorted(left)
    assert len({tuple(indices.tolist()) for indices in found}) > 10
