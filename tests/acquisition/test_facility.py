"""Compares the strategies of facility location, and EPIG, with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import access, epig
from fkjax.acquisition.epig import predictive_information
from fkjax.acquisition.uncertainty import stochastic_log_probs
from fkjax.base import UserError, key_for
from fkjax.models.ensemble import ensemble
from tests.acquisition.outputs import (
    MODEL,
    ask,
    check_greedy,
    scene_of,
    softmax,
    view_of,
)


def gain_of(name, scene, picks):
    at = np.append(np.flatnonzero(scene.is_labeled), picks).astype(int)
    known, targets = [scene.phi[at]], scene.validation
    if name == "max_herding":
        known, targets = [*known, scene.validation], scene.phi
    similar = np.maximum(scene.phi @ targets.T, 0)
    covered = np.maximum(np.concatenate(known) @ targets.T, 0).max(axis=0)
    gain = np.maximum(similar - covered, 0).sum(axis=1)
    return gain + similar.max(axis=1) if name == "flqmi" else gain


@pytest.mark.parametrize("name", ["flqmi", "max_herding"])
def test_each_pick_covers_most_by_definition(name):
    for seed in range(3):
        view, _ = view_of(seed)
        scene = scene_of(view)
        check_greedy(
            ask(name, view), scene, lambda picks, s=scene: gain_of(name, s, picks)
        )


def test_information_is_that_of_the_joint_distribution():
    rng = np.random.default_rng(0)
    p, targets = softmax(rng.normal(size=(9, 3))), softmax(rng.normal(size=(4, 9, 3)))
    found = jax.jit(predictive_information)(jnp.asarray(p), jnp.asarray(targets))
    informations = []
    for target in targets:
        joint = sum(np.outer(a, b) for a, b in zip(p, target, strict=True)) / 9
        product = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        informations.append((joint * np.log(joint / product)).sum())
    np.testing.assert_allclose(found, np.mean(informations), atol=1e-6)


def test_epig_queries_the_highest_information_under_the_same_masks():
    view, _ = view_of()
    model = MODEL._replace(dropout=(("logits", 0.5),))
    made = epig(model, budget=5, num_passes=16, is_trained=True, batch_size=7)
    seen = access.restrict(view, made, hidden_labels=lambda: view.pool_labels)
    query = jax.jit(made.query)(jax.random.key(0), seen)

    def passes(image):
        return stochastic_log_probs(
            key_for(jax.random.key(0), "masks"), model, None, image, num_passes=16
        )

    both = jnp.exp(jax.vmap(passes)(jnp.concatenate([view.pool, view.validation])))
    pool, targets = jnp.split(both, [len(view.pool)])
    scores = np.asarray(jax.vmap(predictive_information, (0, None))(pool, targets))
    np.testing.assert_allclose(query.scores, scores[query.indices], atol=1e-6)
    order = np.argsort(np.where(view.is_unlabeled, -scores, np.inf))
    np.testing.assert_array_equal(query.indices, order[:5])
    bad = seen._replace(validation=view.validation.at[2].set(jnp.nan))
    query = jax.jit(made.query)(jax.random.key(0), bad)
    assert np.flatnonzero(query.is_bad_validation).tolist() == [2]


def test_epig_needs_a_model_whose_passes_differ():
    with pytest.raises(UserError, match="dropout or an ensemble"):
        epig(MODEL, budget=1)
    assert epig(ensemble(MODEL, 2), budget=1).sees == {"validation"}
