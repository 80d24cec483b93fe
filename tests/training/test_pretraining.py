"""Rotation self-supervision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.models import lenet
from fkjax.training import evaluation, pretraining
from fkjax.training.fit import Schedule


@pytest.fixture(scope="module")
def model(digits):
    return lenet(
        (8, 8, 1),
        pretraining.ROTATIONS,
        mean=digits.mean,
        std=digits.std,
        conv_dropout=0.0,
        dense_dropout=0.0,
    )


def test_labels_count_the_quarter_turns_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 2), dtype=np.uint8)
    turned, labels = pretraining.four_rotations(images)
    assert turned.shape == (12, 5, 5, 2) and turned.dtype == jnp.uint8
    np.testing.assert_array_equal(np.bincount(labels), [3, 3, 3, 3])
    for i, (image, label) in enumerate(zip(turned, labels, strict=True)):
        np.testing.assert_array_equal(image, np.rot90(images[i % 3], int(label)))


def test_rotations_are_learned_without_a_label(digits, model):
    images = jnp.asarray(digits.train_images[:500])
    trained = jax.jit(
        lambda key: pretraining.pretrain(
            key, model, model.init(key), images, schedule=Schedule(epochs=15)
        )
    )(jax.random.key(0))
    turned, labels = pretraining.four_rotations(digits.test_images[:100])
    accuracy_of = jax.jit(lambda v: evaluation.accuracy(model, v, turned, labels))
    start = accuracy_of(jax.jit(model.init)(jax.random.key(0)))
    accuracy = accuracy_of(trained)
    assert float(start) < 0.5 and float(accuracy) > 0.8


def test_fewer_images_than_a_batch_are_one_batch(digits, model):
    """Compares one step of gradient descent with the gradient."""
    images = jnp.asarray(digits.train_images[:3])
    variables = jax.jit(model.init)(jax.random.key(0))
    schedule = Schedule(epochs=1, learning_rate=0.1)
    trained = jax.jit(
        lambda variables: pretraining.pretrain(
            jax.random.key(1), model, variables, images, schedule=schedule
        )
    )(variables)

    def loss(variables):
        turned, labels = pretraining.four_rotations(images)
        log_p = jax.nn.log_softmax(model.apply(variables, turned))
        return -log_p[jnp.arange(12), labels].mean()

    expected = jax.tree.map(
        lambda v, g: v - 0.1 * g, variables, jax.jit(jax.grad(loss))(variables)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        trained,
        expected,
    )
    before, after = (v.parameters["fc1"]["kernel"] for v in (variables, trained))
    assert abs(after - before).max() > 1e-4


def test_all_layers_but_the_head_are_passed_on(model):
    classifier = lenet((8, 8, 1), 10)
    pretrained, fresh = (
        jax.jit(model.init)(jax.random.key(0)),
        jax.jit(classifier.init)(jax.random.key(1)),
    )
    passed = pretraining.transfer(classifier, pretrained, fresh)
    assert set(passed.parameters) == {"conv1", "conv2", "fc1", "fc2"}
    for name, layer in passed.parameters.items():
        source = (fresh if name == "fc2" else pretrained).parameters
        jax.tree.map(np.testing.assert_array_equal, layer, source[name])
    assert classifier.apply(passed, np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 10)
    assert pretrained.parameters["fc2"]["kernel"].shape == (
        50,
        4,
    )  # no dict was changed in place
