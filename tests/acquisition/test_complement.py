"""Compares the strategies on a conditioned kernel with their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.features import unit_features
from fkjax.acquisition.posterior import pool_posterior
from fkjax.fisher.kernel import last_layer
from tests.acquisition.outputs import (
    BUDGET,
    CLASSES,
    ask,
    check_greedy,
    scene_of,
    view_of,
)

NOISE = 0.1
NAMES = ["fisher_ratio", "bait", "vtl", "logdet_mi", "max_det", "fisher_herding"]


def covariance(*parts):
    phi = np.concatenate(parts)
    return np.linalg.inv(np.eye(phi.shape[1]) + phi.T @ phi / NOISE)


def gain_of(name, scene, picks, trains_on_validation=True):
    """The gain of each pool example, from fresh inverses. Shape [N]."""
    phi = scene.phi
    bought = phi[np.append(np.flatnonzero(scene.is_labeled), picks).astype(int)]
    known = [bought, scene.validation] if trains_on_validation else [bought]
    if name == "fisher_herding":
        mean = scene.validation.mean(axis=0)
        return phi @ (mean - bought.sum(axis=0) / (len(bought) + 1))
    if name == "logdet_mi":
        v, given = (
            ((phi @ m) * phi).sum(axis=1) + NOISE
            for m in (covariance(bought), covariance(bought, scene.validation))
        )
        return np.log(v / given) / 2
    m = covariance(bought) if name == "vtl" else covariance(*known)
    v = ((phi @ m) * phi).sum(axis=1)
    if name == "max_det":
        return v
    weights = np.ones(len(phi))
    if name == "fisher_ratio":
        weights = scene.r @ (scene.pi / scene.q)
    sigma = (phi.T * weights) @ phi / weights.sum()
    if name == "vtl":
        sigma = scene.validation.T @ scene.validation / len(scene.validation)
    return (((phi @ m @ sigma @ m) * phi).sum(axis=1)) / (v + NOISE)


@pytest.mark.parametrize("name", NAMES)
def test_each_pick_has_the_highest_gain_by_definition(name):
    for seed in range(3):
        view, _ = view_of(seed)
        scene, query = scene_of(view), ask(name, view)
        check_greedy(query, scene, lambda picks, s=scene: gain_of(name, s, picks))
        np.testing.assert_array_equal(query.pseudo_labels, scene.assumed[query.indices])
        assert (query.targets == -1).all()


def test_without_labels_and_correction_those_of_the_model_are_taken():
    view, _ = view_of(3)
    for changed in (view._replace(correction=None), view._replace(labels=None)):
        scene, query = scene_of(changed), ask("fisher_ratio", changed)
        check_greedy(
            query, scene, lambda picks, s=scene: gain_of("fisher_ratio", s, picks)
        )


def test_a_validation_set_that_is_not_trained_on_is_not_known():
    view, _ = view_of(4)
    scene = scene_of(view)
    query = ask("fisher_ratio", view, trains_on_validation=False)
    check_greedy(
        query, scene, lambda picks: gain_of("fisher_ratio", scene, picks, False)
    )


def test_only_unlabeled_examples_that_are_not_finite_are_bad():
    view, _ = view_of()
    labeled, unlabeled = (
        int(np.flatnonzero(mask)[2]) for mask in (view.labels >= 0, view.is_unlabeled)
    )
    whole = ask("fisher_ratio", view)
    query = ask("fisher_ratio", view._replace(pool=view.pool.at[labeled].set(jnp.nan)))
    assert not query.is_bad.any() and np.isfinite(query.scores).all()
    query = ask(
        "fisher_ratio", view._replace(pool=view.pool.at[unlabeled].set(jnp.nan))
    )
    assert np.flatnonzero(query.is_bad).tolist() == [unlabeled]
    assert not whole.is_bad.any() and not whole.is_bad_validation.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "classes", [((0, 1), (0, 1, 2)), ((0, 1, 2), (0, 1)), ((1,), (1,))]
)
def test_classes_that_one_side_lacks_starve_no_other(name, classes):
    of_pool, of_validation = classes
    view, truth = view_of(5, pool_classes=of_pool, classes=of_validation)
    query = ask(name, view)
    assert np.isfinite(query.scores).all()
    both = set(of_pool) & set(of_validation)
    assert set(truth[query.indices]) >= both


def test_the_weights_of_a_class_add_up_to_its_share_in_deployment():
    view, _ = view_of(6, num=400, pool_classes=(0, 0, 0, 0, 1))
    scene = scene_of(view)
    labels = jnp.asarray(view.labels)
    q, r = jax.jit(pool_posterior)(jnp.log(scene.p), labels, jnp.asarray(scene.pi))
    np.testing.assert_allclose(r, scene.r, atol=1e-4)
    shares = (np.asarray(r) * (scene.pi / np.asarray(q))).mean(axis=0)
    np.testing.assert_allclose(shares[:2], scene.pi[:2], atol=1e-3)
    assert shares[2] < scene.pi[2]  # that of the class that the pool lacks


def test_equal_examples_and_zero_rows_are_queried_once_each():
    view, _ = view_of(7, num=12)
    pool = jnp.repeat(view.pool[:1], 12, axis=0)
    for images in (pool, jnp.zeros_like(pool)):
        open_only = view._replace(
            pool=images, is_unlabeled=jnp.ones(12, bool), labels=jnp.full(12, -1)
        )
        query = ask("fisher_ratio", open_only)
        assert len(set(query.indices.tolist())) == BUDGET
        assert np.isfinite(query.scores).all()


def test_the_order_of_the_pool_changes_no_pick():
    view, _ = view_of(8)
    order = np.random.default_rng(0).permutation(len(view.pool))
    moved = view._replace(
        pool=view.pool[order],
        is_unlabeled=view.is_unlabeled[order],
        labels=view.labels[order],
    )
    for name in NAMES:
        query, permuted = ask(name, view), ask(name, moved)
        np.testing.assert_array_equal(order[permuted.indices], query.indices)


def test_features_have_the_inner_products_of_the_kernel():
    def both(num_features, num_classes):
        kernel = last_layer("z", "logits", num_classes)
        keys = jax.random.split(jax.random.key(1))
        z = jax.random.normal(keys[0], (40, num_features))
        g = jax.nn.one_hot(jnp.arange(40) % num_classes, num_classes)
        g -= jax.nn.softmax(jax.random.normal(keys[1], g.shape))

        def one(z, g):
            z, g = {"z": z}, {"logits": g}
            return kernel.embed(z, g), unit_features(jax.random.key(0), kernel, z, g)

        embeddings, phi = jax.jit(jax.vmap(one))(z, g)
        return kernel.similarity(embeddings, embeddings), phi

    exact, phi = both(9, CLASSES)
    assert phi.shape == (40, 10 * CLASSES)
    np.testing.assert_allclose(phi @ phi.T, exact, atol=1e-5)
    exact, phi = both(120, 9)  # 121 * 9 is more than 1,024
    assert phi.shape == (40, 512)
    np.testing.assert_allclose(jnp.linalg.norm(phi, axis=1), 1, atol=1e-5)
    assert np.sqrt(np.mean((phi @ phi.T - exact) ** 2)) < 0.06
