"""Compares converted Flax modules with modules that call a tap themselves."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.acquisition.pseudo_label import argmax
from fkjax.base import UserError, Variables
from fkjax.fisher.descriptors import descriptor
from fkjax.models import as_images, from_linen, from_module, from_nnx, layers
from tests.models.plain_modules import (
    EXAMPLE,
    TAPS,
    LinenNet,
    LinenPerceptron,
    LinenTapped,
    NNXNet,
    NNXPerceptron,
    NNXTapped,
    noisy,
    scaled,
    tapped,
)


@pytest.fixture(scope="module")
def nnx_net():
    """A module that is left in training mode."""
    module = NNXNet(nnx.Rngs(0))
    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(module, noisy(state))
    return module


@pytest.fixture(scope="module")
def linen_variables():
    init = jax.jit(lambda key, x: LinenNet().init(key, x, train=False))
    return noisy(init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))


@pytest.fixture(scope="module")
def cases(nnx_net, linen_variables):
    """The result of `from_module`, the reference and images, by kind of module."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    vectors = rng.normal(size=(4, 7)).astype(np.float32)
    options = {"example": EXAMPLE, "taps": TAPS, "preprocess": scaled}
    perceptron = LinenPerceptron()
    of_perceptron = perceptron.init(jax.random.key(0), vectors)
    return {
        "nnx": (
            from_module(nnx_net, **options),
            tapped(from_nnx, NNXTapped, TAPS, "fc2", (8, 8, 1)),
            images,
        ),
        "linen": (
            from_module(LinenNet(), linen_variables, **options),
            tapped(from_linen, LinenTapped(), TAPS, "fc2", (8, 8, 1)),
            images,
        ),
        "nnx perceptron": (
            from_module(
                NNXPerceptron(nnx.Rngs(0)),
                example=vectors,
                taps=["hidden/0", "hidden/1"],
                preprocess=lambda x: x / 255,
            ),
            tapped(
                from_nnx,
                NNXPerceptron,
                ("hidden/0", "hidden/1"),
                "head",
                (1, 1, 7),
            ),
            as_images(vectors),
        ),
        "linen perceptron": (
            from_module(
                perceptron,
                of_perceptron["params"],
                example=vectors,
                taps=["hidden_0", "hidden_1"],
                preprocess=lambda x: x / 255,
            ),
            tapped(from_linen, perceptron, ("hidden_0", "hidden_1"), "head", (1, 1, 7)),
            as_images(vectors),
        ),
    }


KINDS = ["nnx", "linen", "nnx perceptron", "linen perceptron"]


@pytest.mark.parametrize("kind", KINDS)
def test_descriptors_are_those_of_taps_written_into_the_module(kind, cases):
    adapted, reference, images = cases[kind]

    def of(model):
        return jax.jit(
            jax.vmap(
                lambda image: descriptor(
                    model, adapted.variables, image, argmax(), taps=adapted.taps
                )
            )
        )(images)

    actual, expected = of(adapted.model), of(reference)
    assert set(actual.z) == set(actual.g) == set(adapted.taps)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        actual,
        expected,
    )
    assert all(np.abs(g).max() > 1e-4 for g in actual.g.values())


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_batch_has_the_logits_of_the_module_itself(
    kind, cases, nnx_net, linen_variables
):
    adapted, _, images = cases[kind]
    if kind == "nnx":
        nnx_net.eval()
        expected = nnx_net(scaled(images))
        nnx_net.train()
    else:
        expected = LinenNet().apply(linen_variables, scaled(images), train=False)
    actual = adapted.model.apply(adapted.variables, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_given_module_stays_in_training_mode(nnx_net):
    before = jax.tree.leaves(nnx.state(nnx_net))
    from_module(nnx_net, example=EXAMPLE, preprocess=scaled)
    assert not nnx_net.block.drop.deterministic
    assert not nnx_net.block.norm.use_running_average
    assert type(nnx_net.fc1) is nnx.Linear
    for a, b in zip(before, jax.tree.leaves(nnx.state(nnx_net)), strict=True):
        assert a is b


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_the_model_tells_its_shapes(kind, cases):
    model, variables, taps = cases[kind][0]
    assert model.image_shape == (8, 8, 1) and model.num_classes == 3
    assert model.head == "fc2" and model.dropout == ()
    assert set(taps) < set(model.taps)
    assert set(variables.parameters) == {"block", "conv", "fc1", "fc2"}
    assert set(variables.statistics["block"]["norm"]) == {"mean", "var"}
    with pytest.raises(UserError, match="cannot be initialized"):
        model.init(jax.random.key(0))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_layers_are_listed_as_they_finish(kind, nnx_net, linen_variables):
    if kind == "nnx":
        found = layers(nnx_net, example=EXAMPLE, preprocess=scaled)
        block, drop, dense = "NNXBlock", "drop", "Linear"
    else:
        found = layers(LinenNet(), linen_variables, example=EXAMPLE, preprocess=scaled)
        block, drop, dense = "LinenBlock", "Dropout_0", "Dense"
    assert found == [
        ("block/conv", (8, 8, 4), "Conv", ""),
        ("block/norm", (8, 8, 4), "BatchNorm", ""),
        (f"block/{drop}", (8, 8, 4), "Dropout", ""),
        ("block", (8, 8, 4), block, ""),
        ("conv", (4, 4, 6), "Conv", ""),
        ("fc1", (5,), dense, ""),
        ("fc2", (3,), dense, ""),
    ]


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_found_taps_are_the_last_of_each_size_but_the_logits(
    kind, nnx_net, linen_variables
):
    module, given = (nnx_net, None) if kind == "nnx" else (LinenNet(), linen_variables)
    adapted = from_module(module, given, example=EXAMPLE, preprocess=scaled)
    assert adapted.taps == ("block/conv", "conv", "fc1")


def test_variables_are_an_argument_of_the_model(cases):
    model, variables, _ = cases["nnx perceptron"][0]
    zeros = Variables(jax.tree.map(jnp.zeros_like, variables.parameters))
    np.testing.assert_array_equal(model.apply(zeros, cases["nnx perceptron"][2]), 0)


class Pooled(flax.linen.Module):
    """A convolution of 16 channels and a max pooling, which hides NaN on CPU."""

    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.relu(flax.linen.Conv(16, (3, 3), name="conv")(x))
        x = flax.linen.max_pool(x, (2, 2), (2, 2))
        return flax.linen.Dense(3, name="logits")(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def pooled():
    example = jnp.ones((32, 12, 12, 3))
    return jax.jit(Pooled().init)(jax.random.key(0), example), example


def test_nan_that_a_pooling_hides_is_in_the_logits(pooled):
    variables, images = pooled
    model, variables, _ = from_module(Pooled(), variables, example=images)
    images = images.at[7].set(jnp.nan).at[9].set(jnp.inf)
    logits = jax.jit(model.apply)(variables, images)
    plain = Pooled().apply({"params": variables.parameters}, images)
    is_bad = np.isin(np.arange(32), (7, 9))
    np.testing.assert_array_equal(np.isnan(logits).all(axis=1), is_bad)
    np.testing.assert_array_equal(logits[~is_bad], plain[~is_bad])


def test_variables_that_are_nan_are_named(pooled):
    variables, example = pooled
    params = variables["params"] | {"conv": dict(variables["params"]["conv"])}
    params["conv"]["kernel"] = params["conv"]["kernel"].at[1, 1, 0, 5].set(jnp.nan)
    with pytest.raises(UserError, match="contain NaN, in parameters/conv/kernel: give"):
        from_module(Pooled(), {"params": params}, example=example)
