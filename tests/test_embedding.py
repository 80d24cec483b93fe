"""The fused route against plain Fisher vectors, projected one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax import fisher
from fkjax.embedding import embed
from fkjax.models import lenet
from fkjax.projection import balanced_fold, count_sketch, khatri_rao, project

NUM = 7


@pytest.fixture(scope="module")
def world():
    model = lenet((16, 16, 1), 10)
    log_probs_fn, theta = fisher.of_parameters(model, model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (NUM, 16, 16, 1), dtype=np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, NUM))
    return log_probs_fn, theta, images, labels


def sketches(theta, rank=32):
    """A different kind on every layer, one of which uses the factors themselves."""
    kinds = {"conv1": count_sketch, "conv2": balanced_fold, "fc1": khatri_rao}
    return {
        f"{layer}/{leaf}": kinds.get(layer, balanced_fold)(rank=rank)
        for layer, leaves in theta.items()
        for leaf in leaves
    }


@pytest.mark.parametrize("batch_size", [3, NUM])
def test_it_is_the_projection_of_each_fisher_vector(world, batch_size):
    log_probs_fn, theta, images, labels = world
    projection = project(sketches(theta))
    state = projection.init(jax.random.key(1), theta)
    got = jax.jit(
        lambda theta: embed(
            log_probs_fn,
            theta,
            images,
            labels,
            projection,
            state,
            batch_size=batch_size,
        )
    )(theta)
    vectors = fisher.fisher_vectors(log_probs_fn, theta, images, labels)
    expected = jax.vmap(projection.apply, (None, 0))(state, vectors)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_transposed_kernel_is_not_taken_for_a_plain_one():
    """Its leaf is (a^T d)^T, which a sketch of factors must not see as a^T d."""
    theta = {"w": jax.random.normal(jax.random.key(0), (4, 4))}
    xs = jax.random.normal(jax.random.key(1), (5, 4))
    labels = jnp.arange(5) % 4

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(theta["w"] @ x)

    projection = project(khatri_rao(rank=8))
    state = projection.init(jax.random.key(2), theta)
    got = embed(log_probs_fn, theta, xs, labels, projection, state)
    vectors = fisher.fisher_vectors(log_probs_fn, theta, xs, labels)
    expected = jax.vmap(projection.apply, (None, 0))(state, vectors)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
