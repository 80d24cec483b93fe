"""Fisher vectors against finite differences, closed forms and a NumPy LeNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import path_of
from fkjax.fisher import vectors
from fkjax.models import lenet
from fkjax.sketch.projection import project
from fkjax.sketch.unstructured import count_sketch


def softmax_regression(theta, x):
    return jax.nn.log_softmax(theta @ x)


def test_softmax_regression_has_its_closed_form():
    rng = np.random.default_rng(1)
    theta, xs = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    labels = np.array([0, 3, 1, 1, 2])
    scores = vectors.fisher_vectors(
        softmax_regression, jnp.asarray(theta), jnp.asarray(xs), jnp.asarray(labels)
    )
    p = np.exp(xs @ theta.T)
    p /= p.sum(axis=1, keepdims=True)
    expected = (np.eye(4)[labels] - p)[:, :, None] * xs[:, None, :]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_the_score_has_zero_mean_under_the_model(model, variables, images):
    log_probs_fn, theta = vectors.of_parameters(model, variables)
    p = jnp.exp(log_probs_fn(theta, images[0]))
    scores = jax.jit(
        lambda theta, x: vectors.fisher_vectors(log_probs_fn, theta, x, jnp.arange(10))
    )(theta, jnp.repeat(images[:1], 10, axis=0))
    for leaf in jax.tree.leaves(scores):
        mean = jnp.tensordot(p, leaf, 1)
        np.testing.assert_allclose(mean, 0, atol=3e-6 * float(abs(leaf).max() + 1))


def test_parameter_scores_agree_with_finite_differences(model, images):
    """On random directions in float64, where differences are sharp."""
    with jax.enable_x64(True):
        model = lenet((28, 28, 1), 10)
        variables = jax.tree.map(
            lambda v: v.astype(jnp.float64),
            jax.jit(model.init)(jax.random.key(0)),
        )

        @jax.jit
        def log_prob(variables, x, label):
            a = jax.nn.log_softmax(model.apply(variables, x[None])[0])
            return a[label]

        log_probs_fn, theta = vectors.of_parameters(model, variables)
        score = jax.jit(
            lambda theta: vectors.fisher_vector(log_probs_fn, theta, images[0], 7)
        )(theta)
        direction = jax.tree.map(
            lambda v: jax.random.normal(jax.random.key(v.size), v.shape, v.dtype),
            variables,
        )
        epsilon = 1e-8  # small: a larger step crosses kinks of the relu

        def at(step):
            moved = jax.tree.map(lambda v, d: v + step * d, variables, direction)
            return log_prob(moved, images[0], 7)

        along = sum(
            jnp.vdot(s, d)
            for s, d in zip(
                jax.tree.leaves(score), jax.tree.leaves(direction), strict=True
            )
        )
        np.testing.assert_allclose(
            along, (at(epsilon) - at(-epsilon)) / (2 * epsilon), rtol=1e-4
        )


NAMED = {
    ("fc2",): {"fc2/bias", "fc2/kernel"},
    ("conv1/kernel",): {"conv1/kernel"},
    ("fc1/bias", "conv2"): {"fc1/bias", "conv2/bias", "conv2/kernel"},
    ("fc1", "fc1/bias"): {"fc1/bias", "fc1/kernel"},
}


def by_path(tree):
    return {path_of(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("names", NAMED, ids="+".join)
def test_a_subset_has_those_leaves_of_the_whole_gradient(
    names, model, variables, images
):
    """They are at the same paths, and so have the same sketches."""
    whole = vectors.of_parameters(model, variables)
    some = vectors.of_parameters(model, variables, names)
    assert set(by_path(some[1])) == NAMED[names]
    vector, part = (
        jax.jit(lambda theta, fn=fn: vectors.fisher_vector(fn, theta, images[0], 3))(
            theta
        )
        for fn, theta in (whole, some)
    )
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (path_of(path) in NAMED[names]), vector
    )
    for path, leaf in by_path(part).items():
        assert abs(leaf).max() > 0
        np.testing.assert_allclose(leaf, by_path(vector)[path], rtol=1e-5, atol=1e-7)
    projection, key = project(count_sketch(rank=16)), jax.random.key(5)
    np.testing.assert_allclose(
        projection.apply(projection.init(key, part), part),
        projection.apply(projection.init(key, vector), zeroed),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_subset_of_a_list():
    """Names are whole parts of a path: "1" is not "10"."""
    theta = [jnp.full(3, float(i)) for i in range(12)]
    fn, chosen = vectors.subset(lambda theta, x: sum(theta) * x, theta, ["1"])
    assert set(chosen) == {"1"}
    np.testing.assert_array_equal(fn({"1": jnp.full(3, 101.0)}, 2.0), 2 * (66 + 100.0))


@pytest.mark.parametrize("names", [["fc3"], ["fc2", "fc"], ["fc1/kernel/0"], [""], []])
def test_names_of_nothing_are_refused_with_those_that_are(names, model, variables):
    with pytest.raises(ValueError, match="conv1/bias, conv1/kernel.*fc2/kernel"):
        vectors.of_parameters(model, variables, names)
