"""Models of fkjax on a user's images: their training, and added classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.data.labeled_folder import OwnImages
from fkjax.experiment.presets import image_defaults
from fkjax.labeling import own_model
from fkjax.labeling.own_model import enlarged, model_of_images, problem_of_images
from fkjax.selection.choose import choose
from fkjax.training import evaluation

CONFIG = dataclasses.replace(
    image_defaults(image_size=8), pretraining="none", epochs=30, dense_dropout=0.0
)


@pytest.fixture(scope="module")
def own(digits):
    """Zeros and ones: 4 in the pool, 6 to validate on, 8 to train on."""
    at = [np.flatnonzero(digits.train_labels == c)[:9] for c in (0, 1)]
    chosen = np.stack(at, axis=1).ravel()
    labels = digits.train_labels[chosen].copy()
    labels[:4] = -1
    names = [f"{i:02}.png" for i in range(18)]
    parts = np.split(np.arange(18), (4, 10, 18))
    return OwnImages(
        names,
        digits.train_images[chosen],
        *parts,
        labels,
        ["zero", "one"],
        digits.mean,
        digits.std,
        np.arange(18),
    )


def test_a_model_is_trained_on_what_is_labelled(own):
    problem = problem_of_images(own, CONFIG)
    assert problem.pool_ids == ["00.png", "01.png", "02.png", "03.png"]
    assert problem.is_unlabeled.all() and problem.is_trained
    accuracy = evaluation.accuracy(
        problem.model,
        problem.variables,
        problem.validation,
        jnp.asarray(problem.validation_labels),
    )
    assert accuracy == 1.0
    (pick,) = choose(problem, budget=1, strategy="margin").picks
    assert pick.id in problem.pool_ids and pick.predicted in ("zero", "one")


def test_without_labels_the_last_layer_is_fresh(own):
    nothing = own._replace(train=own.train[:0])
    problem = problem_of_images(nothing, CONFIG)
    model = model_of_images(nothing, CONFIG, num_classes=2)
    assert not problem.is_trained
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y),
        jax.tree.map(jnp.shape, problem.variables),
        jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0))),
    )


def test_training_that_diverges_is_told(own):
    with pytest.raises(UserError, match="training led to NaN or infinity"):
        problem_of_images(own, dataclasses.replace(CONFIG, learning_rate=1e30))


def test_a_tap_that_the_model_lacks_is_told(own):
    with pytest.raises(UserError, match="unknown tap 'pool'"):
        model_of_images(own, dataclasses.replace(CONFIG, taps=("pool",)), num_classes=2)


@pytest.mark.parametrize("ensemble", [1, 2])
def test_a_larger_last_layer_says_the_same_of_the_old_classes(own, ensemble):
    config = dataclasses.replace(CONFIG, ensemble=ensemble)
    small, large = (model_of_images(own, config, num_classes=n) for n in (2, 4))
    before = jax.jit(small.init)(jax.random.key(1))
    fresh = jax.jit(large.init)(jax.random.key(2))
    after = enlarged(before, fresh)

    def logits(model, variables):
        model = model.member or model
        if ensemble == 1:
            return jax.jit(model.apply)(variables, own.images)
        return jax.jit(jax.vmap(lambda v: model.apply(v, own.images)))(variables)

    was, now, new = logits(small, before), logits(large, after), logits(large, fresh)
    np.testing.assert_allclose(now[..., :2], was, rtol=1e-5, atol=1e-6)
    assert now.shape[-1] == 4 and not np.allclose(now[..., :2], new[..., :2])
    head = large.head
    for name, leaf in after.parameters[head].items():
        np.testing.assert_array_equal(
            leaf[..., 2:], fresh.parameters[head][name][..., 2:]
        )


def test_copies_of_known_images_and_of_others_are_not_queried(own):
    first = np.arange(18)
    first[[3, 10]] = 2, 1  # a copy in the pool, and one in the train set
    labels = own.labels.copy()
    first[6], labels[[4, 6]] = 4, (0, 1)
    said = []
    copies = own_model.copies_among(
        own._replace(first=first, labels=labels), own.pool, warn=said.append
    )
    assert copies.skipped(np.ones(4, bool)).tolist() == [False, True, False, True]
    assert said == [
        "exact copies have different labels: 04.png (zero), 06.png (one)",
    ]
