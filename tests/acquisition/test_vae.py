"""Tests the convolutions of the autoencoder, and images of different sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import vae


@pytest.mark.parametrize(("height", "width", "channels"), [(9, 7, 3), (8, 4, 1)])
def test_a_dense_layer_of_patches_is_a_strided_convolution(height, width, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(4, 4, channels, 5)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(4, 4),
        padding=((0, -height % 4), (0, -width % 4)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    patches = vae._to_patches(jnp.asarray(x))
    result = patches @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    image = vae._from_patches(patches)[:, :height, :width]
    np.testing.assert_array_equal(image, x)


@pytest.mark.parametrize("size", [(1, 1, 1), (8, 8, 1), (9, 7, 3), (224, 200, 3)])
def test_images_of_any_size_become_latents_and_images_again(size):
    autoencoder = vae.autoencoder(size, latent_size=6)
    parameters = jax.eval_shape(autoencoder.init, jax.random.key(0))
    images = jnp.zeros((2, *size))
    mean, log_variance = jax.eval_shape(autoencoder.encode, parameters, images)
    assert mean.shape == log_variance.shape == (2, 6)
    decoded = jax.eval_shape(autoencoder.decode, parameters, mean)
    assert decoded.shape == images.shape
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(parameters)) < 1.5e6


def test_an_example_does_not_depend_on_its_neighbours():
    autoencoder = vae.autoencoder((9, 7, 1), latent_size=3)
    parameters = jax.jit(autoencoder.init)(jax.random.key(0))
    encode = jax.jit(autoencoder.encode)
    images = jax.random.uniform(jax.random.key(1), (3, 9, 7, 1))
    mean, log_variance = encode(parameters, images)
    assert float(mean.std(axis=0).min()) > 1e-3
    for i in range(3):
        alone = encode(parameters, images[i : i + 1])
        np.testing.assert_allclose(alone[0][0], mean[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone[1][0], log_variance[i], rtol=1e-4, atol=1e-5)
