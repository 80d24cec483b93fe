"""No examples, many classes and frozen networks: empty results, and bounded memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import Model, Variables
from fkjax.fisher import Factors, convolution_gram, fisher_vectors, of_parameters
from fkjax.fisher.gram import gram
from fkjax.sketch import (
    count_sketch,
    embed,
    embed_all_classes,
    identity,
    predicted,
    project,
    tensor_sketch,
)

THETA = {"w": jax.random.normal(jax.random.key(0), (6, 40))}
XS = jax.random.normal(jax.random.key(1), (5, 6))
PROJECTION = project(tensor_sketch(rank=8))
STATE = PROJECTION.init(jax.random.key(2), THETA)


def log_probs_fn(theta, x):
    return jax.nn.log_softmax(x @ theta["w"])


def test_embeddings_of_no_examples_are_empty():
    none = XS[:0]
    arguments = (log_probs_fn, THETA, none)
    for labels in (predicted, jnp.zeros(0, int)):
        assert embed(*arguments, labels, PROJECTION, STATE).shape == (0, 8)
    assert embed_all_classes(*arguments, PROJECTION, STATE).shape == (0, 40, 8)
    assert fisher_vectors(*arguments, jnp.zeros(0, int))["w"].shape == (0, 6, 40)


@pytest.mark.parametrize(("num", "num2"), [(0, 3), (3, 0), (0, 0)])
def test_grams_of_no_examples_are_empty(num, num2):
    sides = [
        {"c": Factors(jnp.ones((n, 9, 4)), jnp.ones((n, 9, 2))), "s": jnp.ones((n, 5))}
        for n in (num, num2)
    ]
    for chunk_size in (None, 1):
        found = gram(*sides, has_bias=True, chunk_size=chunk_size)
        assert found.shape == (num, num2)
    factors = (*sides[0]["c"], *sides[1]["c"])
    assert convolution_gram(*factors, has_bias=False).shape == (num, num2)


def test_classes_in_parts_are_the_classes_one_by_one():
    """40 classes of 5 examples: 16 at a time, the last 8 apart."""
    exact = identity()
    state = exact.init(jax.random.key(0), THETA)
    found = embed_all_classes(log_probs_fn, THETA, XS, exact, state, batch_size=64)
    for label in (0, 15, 16, 39):
        labels = jnp.full(len(XS), label)
        expected = embed(log_probs_fn, THETA, XS, labels, exact, state)
        np.testing.assert_allclose(found[:, label], expected, rtol=1e-5, atol=1e-6)


def test_the_gradients_of_all_classes_are_not_held_at_once():
    theta = {"w": jnp.zeros((50, 80)), "head": jnp.zeros((80, 1000))}

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(x @ theta["w"] ** 2 @ theta["head"])

    projection = project(count_sketch(rank=4))
    state = projection.init(jax.random.key(0), theta)

    @jax.jit
    def program(theta, state, xs):
        return embed_all_classes(
            log_probs_fn, theta, xs, projection, state, batch_size=4
        )

    compiled = program.lower(theta, state, jnp.zeros((8, 50))).compile()
    held = compiled.memory_analysis().temp_size_in_bytes
    assert held < 4 * 4 * 1000 * (50 * 80 + 80 * 1000) / 4


def test_a_frozen_network_is_an_argument_of_the_program():
    def apply(variables, images, tap=None):
        weights, statistics = variables
        hidden = jnp.tanh(images[:, 0, 0] @ weights["frozen"] + statistics)
        return hidden @ weights["head"]

    model = Model(lambda key: None, apply, (), "head", (1, 1, 6), 4)
    weights = {"frozen": jnp.ones((6, 500)), "head": jnp.ones((500, 4))}
    variables = Variables(weights, jnp.ones((1, 500)))
    fn, theta = of_parameters(model, variables, names=["head"])
    projection = project(count_sketch(rank=8))
    state = projection.init(jax.random.key(0), theta)

    def embedded(fn, theta, state, xs):
        return embed(fn, theta, xs, predicted, projection, state)

    arguments = (fn, theta, state, XS[:, None, None])
    closed = jax.make_jaxpr(embedded)(*arguments)
    assert sum(np.size(x) for x in closed.consts) < 10
    np.testing.assert_array_equal(jax.jit(embedded)(*arguments), embedded(*arguments))


def test_patches_are_not_kept_for_the_backward_pass():
    """Of six layers, at most those of one are held, as copies in two orders."""
    theta = [jnp.zeros((3, 3, 16, 16)) for _ in range(6)]
    layout = ("NHWC", "HWIO", "NHWC")

    def log_probs_fn(theta, x):
        x = x[None]
        for kernel in theta:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=layout
                )
            )
        return jax.nn.log_softmax(x.mean((0, 1, 2)))

    projection = project(count_sketch(rank=8))
    state = projection.init(jax.random.key(0), theta)

    @jax.jit
    def program(theta, state, xs):
        return embed(log_probs_fn, theta, xs, predicted, projection, state)

    compiled = program.lower(theta, state, jnp.zeros((4, 32, 32, 16))).compile()
    patches = 4 * 4 * 32 * 32 * 9 * 16
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * patches
