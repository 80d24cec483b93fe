"""Folds of a validation set that is trained on, and predictions without a fold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import Model, Variables, key_for, log_probs, no_tap
from fkjax.training import fit
from fkjax.training.folds import folds, out_of_fold

KEY = jax.random.key(5)
SCHEDULE = fit.Schedule(epochs=2, batch_size=4)
SIZE, OTHERS, CAPACITY = 13, 4, 20


@pytest.mark.parametrize("num_folds", [1, 3, 5])
def test_folds_are_equal_in_size_in_total_and_in_each_class(num_folds):
    labels = jnp.array([0] * 7 + [1] * 11 + [3])[
        np.random.default_rng(0).permutation(19)
    ]
    fold = np.asarray(folds(KEY, labels, num_folds=num_folds))
    for rows in (np.ones(19, bool), labels == 0, labels == 1):
        sizes = np.bincount(fold[rows], minlength=num_folds)
        assert len(sizes) == num_folds and np.ptp(sizes) <= 1
    if num_folds > 1:
        other = folds(jax.random.key(6), labels, num_folds=num_folds)
        assert (fold != other).any()


@pytest.fixture(scope="module")
def model():
    def apply(variables, images, tap=no_tap):
        return images.reshape(len(images), -1) / 255 @ variables.parameters["w"]

    def init(key):
        return Variables({"w": 0.1 * jax.random.normal(key, (4, 3))})

    return Model(init, apply, (), "w", (2, 2, 1), 3)


@pytest.fixture(scope="module")
def data():
    """A validation set, other labeled examples and padding."""
    images = np.random.default_rng(1).integers(0, 256, (CAPACITY, 2, 2, 1), np.uint8)
    labels = np.random.default_rng(2).integers(0, 3, CAPACITY).astype(np.int32)
    return images, labels


@pytest.fixture(scope="module")
def held_out(model):
    @jax.jit
    def held_out(images, labels, num_labeled, validation):
        start = model.init(jax.random.key(0))
        return out_of_fold(
            *(KEY, model, start, images, labels, num_labeled, validation),
            schedule=SCHEDULE,
        )

    return lambda *args: np.asarray(held_out(*map(jnp.asarray, args)))


def test_an_example_is_predicted_by_a_model_of_the_other_folds(model, data, held_out):
    """Trains each fold's model by hand."""
    images, labels = data
    found = held_out(images, labels, SIZE + OTHERS, images[:SIZE])
    fold = np.asarray(folds(key_for(KEY, "assignment"), labels[:SIZE], num_folds=5))
    for number in range(5):
        kept = [i for i in range(SIZE + OTHERS) if i >= SIZE or fold[i] != number]
        padded = np.array(kept + [0] * (CAPACITY - len(kept)))
        trained = fit.fit(
            key_for(KEY, "fold", number),
            model,
            model.init(jax.random.key(0)),
            jnp.asarray(images[padded]),
            jnp.asarray(labels[padded]),
            jnp.int32(len(kept)),
            schedule=SCHEDULE,
        )
        for i in np.flatnonzero(fold == number):
            expected = log_probs(model, trained, images[i])
            np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_the_image_that_is_predicted_was_not_trained_on(data, held_out):
    images, labels = data
    num, validation = SIZE + OTHERS, images[:SIZE]
    before = held_out(images, labels, num, validation)
    changed = images.copy()
    changed[4] = 255 - changed[4]
    after = held_out(changed, labels, num, validation)
    fold = np.asarray(folds(key_for(KEY, "assignment"), labels[:SIZE], num_folds=5))
    is_same = (before == after).all(axis=1)
    np.testing.assert_array_equal(is_same, fold == fold[4])
    changed = images.copy()
    changed[num:] = 255 - changed[num:]  # padding
    np.testing.assert_array_equal(held_out(changed, labels, num, validation), before)


def test_one_validation_example_is_predicted_without_it(model, data):
    images, labels = map(jnp.asarray, data)
    start = model.init(jax.random.key(0))
    found = out_of_fold(
        *(KEY, model, start, images[:1], labels[:1], jnp.int32(1), images[:1]),
        schedule=SCHEDULE,
    )
    np.testing.assert_allclose(found[0], log_probs(model, start, images[0]), atol=1e-6)
