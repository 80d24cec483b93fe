"""Descriptors against a LeNet in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.pseudo_label import argmax, given
from fkjax.fisher import descriptors
from tests.numpy_lenet import lenet_descriptors

TAPS = ("conv1", "conv2", "fc1", "logits")


@pytest.mark.parametrize("label_fn", ["given", "argmax"])
def test_descriptors_agree_with_a_numpy_restatement(model, variables, images, label_fn):
    labels = np.array([3, 1, 4])

    def one(image, label):
        make = given(label) if label_fn == "given" else argmax()
        return descriptors.descriptor(model, variables, image, make, taps=TAPS)

    d = jax.jit(jax.vmap(one))(jnp.asarray(images), jnp.asarray(labels))
    weights = jax.tree.map(lambda v: np.asarray(v, np.float64), variables.parameters)
    for i, image in enumerate(images):
        x = (image[:, :, 0] / 255 - 0.1307) / 0.3081
        label = labels[i] if label_fn == "given" else None
        log_p, z, g, used = lenet_descriptors(weights, x, label)
        assert d.label[i] == used
        np.testing.assert_allclose(d.log_probs[i], log_p, rtol=1e-4, atol=1e-4)
        for name in TAPS:
            np.testing.assert_allclose(d.z[name][i], z[name], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(d.g[name][i], g[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("taps", [TAPS, ("conv2",)], ids="+".join)
def test_gradients_under_all_labels_and_their_products_with_z(
    model, variables, images, taps
):
    """By NumPy, label by label; the products without any of the gradients."""

    @jax.jit
    @jax.vmap
    def one(image):
        products = descriptors.feature_derivatives(model, variables, image, taps=taps)
        return *descriptors.all_gradients(model, variables, image, taps=taps), products

    z, g, products = one(jnp.asarray(images[:2]))
    assert products.shape == (2, 10)
    weights = jax.tree.map(lambda v: np.asarray(v, np.float64), variables.parameters)
    for i, image in enumerate(images[:2]):
        x = (image[:, :, 0] / 255 - 0.1307) / 0.3081
        for label in range(10):
            _, z_i, g_i, _ = lenet_descriptors(weights, x, label)
            for name in taps:
                np.testing.assert_allclose(z[name][i], z_i[name], rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(
                    g[name][i, label], g_i[name], rtol=1e-3, atol=1e-6
                )
            product = sum(z_i[name] @ g_i[name] for name in taps)
            np.testing.assert_allclose(
                products[i, label], product, rtol=1e-4, atol=1e-5
            )


def test_a_label_may_follow_from_the_gradient_under_another(model, variables, images):
    """The gradient of the logits is positive only for the label that it is under."""

    def label_fn(log_probs, z, gradient):
        del log_probs, z
        return (gradient(jnp.int32(4))["logits"].argmax() + 1) % 10

    d = jax.jit(
        lambda variables: descriptors.descriptor(
            model, variables, images[0], label_fn, taps=("logits",)
        )
    )(variables)
    assert d.label == 5 and d.g["logits"].argmax() == 5


def test_the_gradient_of_the_logits_is_the_residual(model, variables, images):
    d = jax.jit(
        lambda variables: descriptors.descriptor(
            model, variables, images[0], given(jnp.int32(2)), taps=("logits",)
        )
    )(variables)
    residual = np.eye(10)[2] - np.exp(d.log_probs)
    np.testing.assert_allclose(d.g["logits"], residual, atol=1e-6)


def test_features_are_those_of_the_descriptor(model, variables, images):
    d = descriptors.descriptor(model, variables, images[0], argmax(), taps=TAPS)
    log_p, z = descriptors.features(model, variables, images[0], taps=TAPS)
    np.testing.assert_array_equal(log_p, d.log_probs)
    jax.tree.map(np.testing.assert_array_equal, z, d.z)


def test_descriptors_do_not_depend_on_the_other_examples(model, variables, images):
    def one(image):
        return descriptors.descriptor(model, variables, image, argmax(), taps=TAPS)

    together, backwards = map(jax.jit(jax.vmap(one)), (images, images[::-1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=1e-5, atol=1e-6),
        together,
        backwards,
    )
