"""The fused route against plain Fisher vectors, projected one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.fisher import vectors as fisher
from fkjax.fisher.kernel import check_finite
from fkjax.sketch.embedding import embed, embed_all_classes, predicted, sampled
from fkjax.sketch.planner import auto
from fkjax.sketch.projection import identity, project
from fkjax.sketch.structured import khatri_rao, kronecker, tensor_sketch
from fkjax.sketch.unstructured import balanced_fold, count_sketch
from tests.tiny import tiny

NUM = 7


@pytest.fixture(scope="module")
def world():
    model = tiny((8, 8, 1), 10)
    variables = jax.jit(model.init)(jax.random.key(0))
    log_probs_fn, theta = fisher.of_parameters(model, variables)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (NUM, 8, 8, 1), dtype=np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, NUM))
    return log_probs_fn, theta, images, labels


def sketches(theta, rank=32):
    """A different kind on every layer, one of which uses the factors themselves."""
    kinds = {"conv1": count_sketch, "fc1": khatri_rao}
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

    @jax.jit
    def one_by_one(theta):
        vectors = fisher.fisher_vectors(log_probs_fn, theta, images, labels)
        return jax.vmap(projection.apply, (None, 0))(state, vectors)

    np.testing.assert_allclose(got, one_by_one(theta), rtol=1e-4, atol=1e-5)


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


# Labels.


def regression(theta, x):
    return jax.nn.log_softmax(x @ theta["w"] + theta["b"])


@pytest.fixture(scope="module")
def small():
    keys = jax.random.split(jax.random.key(0), 3)
    theta = {
        "w": jax.random.normal(keys[0], (4, 3)),
        "b": jax.random.normal(keys[1], (3,)),
    }
    xs = jax.random.normal(keys[2], (11, 4))
    exact = identity()
    return theta, xs, exact, exact.init(jax.random.key(0), theta)


def test_predicted_labels_are_the_models_own(small):
    theta, xs, projection, state = small
    labels = jax.vmap(lambda x: regression(theta, x))(xs).argmax(axis=1)
    np.testing.assert_array_equal(
        embed(regression, theta, xs, predicted, projection, state),
        embed(regression, theta, xs, labels, projection, state),
    )


def test_sampled_labels_follow_the_model_and_not_the_microbatch(small):
    theta, xs, projection, state = small
    xs = jnp.broadcast_to(xs[0], (3000, 4))
    rule = sampled(jax.random.key(3))
    one, other = (
        jax.jit(
            lambda theta, size=size: embed(
                regression, theta, xs, rule, projection, state, batch_size=size
            )
        )(theta)
        for size in (64, 1000)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)
    each = embed_all_classes(regression, theta, xs[:1], projection, state)[0]
    drawn = (abs(one[:, None] - each[None]).max(axis=2) < 1e-5).mean(axis=0)
    p = np.exp(regression(theta, xs[0]))
    assert (abs(drawn - p) <= 4 * np.sqrt(p * (1 - p) / 3000)).all()


def test_all_classes_at_once_are_the_labels_one_by_one(world):
    log_probs_fn, theta, images, _ = world
    projection = project(auto(log_probs_fn, theta, images[0], rank=64).sketches)
    state = projection.init(jax.random.key(1), theta)
    found = jax.jit(
        lambda theta: embed_all_classes(
            log_probs_fn, theta, images, projection, state, batch_size=3
        )
    )(theta)
    one = jax.jit(
        lambda theta, labels: embed(
            log_probs_fn, theta, images, labels, projection, state
        )
    )
    for label in (0, 7):
        expected = one(theta, jnp.full(NUM, label))
        np.testing.assert_allclose(found[:, label], expected, rtol=1e-3, atol=1e-4)


def test_the_score_has_zero_mean_under_the_model(world):
    """sum_s p(s | x) u(x, s) = 0, and so of its sketch."""
    log_probs_fn, theta, images, _ = world
    projection = project(tensor_sketch(rank=64))
    state = projection.init(jax.random.key(1), theta)

    @jax.jit
    def mean_and_each(theta):
        each = embed_all_classes(log_probs_fn, theta, images, projection, state)
        p = jnp.exp(jax.vmap(lambda x: log_probs_fn(theta, x))(images))
        return jnp.einsum("nc,nck->nk", p, each), each

    mean, each = mean_and_each(theta)
    assert abs(mean).max() < 1e-5 * abs(each).max()


def test_softmax_regression_has_its_closed_form(small):
    """U(x, s) = x (e_s - p)^T for the weights, e_s - p for the bias."""
    theta, xs, projection, state = small
    found = embed_all_classes(regression, theta, xs, projection, state)
    p = np.exp(jax.vmap(lambda x: regression(theta, x))(xs))
    d = np.eye(3) - p[:, None]
    w = np.asarray(xs)[:, None, :, None] * d[:, :, None]
    expected = np.concatenate([d, w.reshape(11, 3, -1)], axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Leaves that are used more than once.


def test_shared_weights_are_sketched_once_as_a_sum(small):
    theta = {"w": jax.random.normal(jax.random.key(4), (4, 4))}
    xs, labels = small[1], jnp.arange(11) % 4

    def tied(theta, x):
        return jax.nn.log_softmax(jnp.tanh(x @ theta["w"]) @ theta["w"])

    for sketch in (khatri_rao(rank=8), tensor_sketch(rank=8), count_sketch(rank=8)):
        projection = project(sketch)
        state = projection.init(jax.random.key(2), theta)

        @jax.jit
        def both(theta, projection=projection, state=state):
            vectors = fisher.fisher_vectors(tied, theta, xs, labels)
            expected = jax.vmap(projection.apply, (None, 0))(state, vectors)
            return embed(tied, theta, xs, labels, projection, state), expected

        got, expected = both(theta)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# Leaves that are stored in one shape and used in another.


def attending(theta, x):
    """Kernels [d, heads, n] and [heads, n, d]; `both` is used in both ways."""
    y = jnp.tanh(jnp.tensordot(x, theta["key"], 1))
    y += jnp.tanh(jnp.tensordot(x, theta["query"], 1))
    y = jnp.tanh(jnp.tensordot(y, theta["out"], 2))
    y = jnp.tanh(jnp.tensordot(y, theta["both"], 1)).reshape(2, 9)
    y = jnp.pad(y, ((0, 0), (0, 3))).reshape(2, 4, 3)
    return jax.nn.log_softmax(jnp.tensordot(y, theta["both"], 2).mean(0))


def test_kernels_of_several_heads_are_sketched_as_they_are_used():
    shapes = {"key": (4, 3, 2), "query": (4, 3, 2), "out": (3, 2, 4), "both": (4, 3, 3)}
    keys = jax.random.split(jax.random.key(0), 5)
    theta = {
        name: jax.random.normal(key, shape) / 2
        for (name, shape), key in zip(shapes.items(), keys, strict=False)
    }
    xs, labels = jax.random.normal(keys[4], (4, 2, 4)), jnp.arange(4) % 3
    sketches = {
        "key": tensor_sketch(rank=8),
        "query": kronecker(row_rank=4, column_rank=2),
        "out": khatri_rao(rank=8),
        "both": khatri_rao(rank=8),
    }
    plan = auto(attending, theta, xs[0], rank=8, sketches=sketches)
    drawn = project(plan.sketches).init(jax.random.key(1), theta)
    sizes = {
        path: tuple(len(jax.tree.leaves(side)[0]) for side in state)
        for path, state in drawn.items()
    }
    merged = (12, 3)  # all axes but the last, as `both` has no one matrix
    assert sizes == {"key": (4, 6), "query": (4, 6), "out": (6, 4), "both": merged}

    @jax.jit
    def all_ways(theta):
        vectors = fisher.fisher_vectors(attending, theta, xs, labels)
        ways = []
        for projection in (project(plan.sketches), project(sketches)):
            state = projection.init(jax.random.key(1), theta)
            expected = jax.vmap(projection.apply, (None, 0))(state, vectors)
            got = embed(attending, theta, xs, labels, projection, state)
            ways.append((got, expected))
        first = jax.tree.map(lambda u: u[0], vectors)
        return ways, project(plan.sketches).variance(first, first)

    ways, variance = all_ways(theta)
    for got, expected in ways:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert variance > 0
    chosen = auto(attending, theta, xs[0], rank=8)
    assert "several shapes" in chosen.reasons["both"]


# Errors.


def test_nan_stays_with_its_example_and_is_told(small):
    theta, xs, projection, state = small
    xs = xs.at[4].set(jnp.nan)
    embeddings = embed(regression, theta, xs, predicted, projection, state)
    assert np.isfinite(np.delete(embeddings, 4, axis=0)).all()
    with pytest.raises(UserError, match=r"Fisher vectors of 1 of 11 .* \[4\]"):
        check_finite("Fisher vectors", embeddings)
    check_finite("Fisher vectors", embeddings[:4])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (jnp.zeros(10, int), r"11 integers.*\(10,\)"),
        (jnp.zeros(11), "got float32"),
        (jnp.zeros((11, 1), int), r"\(11, 1\)"),
    ],
)
def test_labels_must_be_one_whole_number_each(small, labels, message):
    theta, xs, projection, state = small
    with pytest.raises(ValueError, match=message):
        embed(regression, theta, xs, labels, projection, state)


def test_examples_and_outputs_must_have_the_right_axes(small):
    theta, xs, projection, state = small
    arguments = (predicted, projection, state)
    with pytest.raises(ValueError, match="the same leading axis"):
        embed(lambda t, x: x["a"], theta, {"a": xs, "b": xs[:3]}, *arguments)
    with pytest.raises(ValueError, match="of one example"):
        embed(lambda t, x: (x @ t["w"])[None], theta, xs, *arguments)
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        embed(regression, theta, xs, *arguments, batch_size=0)
