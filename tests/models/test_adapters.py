"""Tests the conversion of NNX and Linen modules, with and without statistics."""

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.base import Variables, no_tap
from fkjax.models import from_linen, from_nnx

MOMENTUM, EPSILON = 0.8, 1e-3


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)
        self.fc = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, tap, mask=None):
        mask = None if mask is None else mask[:, None]
        x = tap("norm", self.norm(x.reshape(len(x), -1), mask=mask))
        return tap("logits", self.fc(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, tap, mask=None):
        norm = nn.BatchNorm(
            mask is None, momentum=MOMENTUM, epsilon=EPSILON, name="norm"
        )
        mask = None if mask is None else mask[:, None]
        x = tap("norm", norm(x.reshape(len(x), -1), mask=mask))
        return tap("logits", nn.Dense(2, name="fc")(x))


class NNXPlain(nnx.Module):
    def __init__(self, layer, rngs):
        self.layer = layer(rngs)
        self.fc = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, tap):
        return tap("logits", self.fc(self.layer(x.reshape(len(x), -1))))


class LinenPlain(nn.Module):
    @nn.compact
    def __call__(self, x, tap):
        x = nn.LayerNorm(name="layer")(x.reshape(len(x), -1))
        return tap("logits", nn.Dense(2, name="fc")(x))


def options(**others):
    shape = {"image_shape": (2, 2, 1), "num_classes": 2, "mean": (0.4,), "std": (0.5,)}
    return {"taps": ["norm", "logits"], "head": "fc", **shape, **others}


def nnx_plain(layer=lambda rngs: nnx.LayerNorm(4, rngs=rngs), **others):
    return from_nnx(lambda rngs: NNXPlain(layer, rngs), **options(**others))


NORMED = {
    "nnx": lambda: from_nnx(NNXNet, **options()),
    "linen": lambda: from_linen(LinenNet(), **options()),
}
PLAIN = {
    "nnx": nnx_plain,
    "linen": lambda **others: from_linen(LinenPlain(), **options(**others)),
}


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    parameters = {
        "norm": {"scale": rng.normal(size=4), "bias": rng.normal(size=4)},
        "fc": {"kernel": rng.normal(size=(4, 2)), "bias": rng.normal(size=2)},
    }
    statistics = {"norm": {"mean": rng.normal(size=4), "var": rng.uniform(1, 2, 4)}}
    return jax.tree.map(jnp.float32, Variables(parameters, statistics))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 2, 2, 1), dtype=np.uint8)


def by_hand(variables, images, mean, var):
    """Computes the logits in NumPy, normalized by this mean and variance."""
    p = jax.tree.map(np.float64, variables.parameters)
    mean, var = np.asarray(mean), np.asarray(var)
    x = (images.reshape(-1, 4) / 255 - 0.4) / 0.5
    x = (x - mean) / np.sqrt(var + EPSILON) * p["norm"]["scale"] + p["norm"]["bias"]
    return x @ p["fc"]["kernel"] + p["fc"]["bias"]


@pytest.mark.parametrize("kind", NORMED)
def test_inference_normalises_by_the_running_statistics(kind, variables, images):
    model, statistics = NORMED[kind](), variables.statistics["norm"]
    expected = by_hand(variables, images, statistics["mean"], statistics["var"])
    actual = model.apply(variables, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


MASKS = {"all": None, "three of five": np.array([True, False, True, True, False])}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("kind", NORMED)
def test_training_normalises_by_the_examples_that_count(kind, mask, variables, images):
    model = NORMED[kind]()
    logits, statistics = model.apply_training(variables, images, no_tap, mask)
    x = (images.reshape(-1, 4) / 255 - 0.4) / 0.5
    x = x if mask is None else x[mask]
    batch = {"mean": x.mean(axis=0), "var": x.var(axis=0)}
    expected = by_hand(variables, images, batch["mean"], batch["var"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    for name, running in variables.statistics["norm"].items():
        moved = MOMENTUM * running + (1 - MOMENTUM) * batch[name]
        np.testing.assert_allclose(statistics["norm"][name], moved, rtol=1e-5)


def test_statistics_keep_their_precision(variables, images):
    """A loop over training steps requires it; images are scaled in float64 here."""
    with jax.enable_x64(True):
        _, statistics = NORMED["linen"]().apply_training(variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {np.dtype("float32")}


@pytest.mark.parametrize("kind", NORMED)
def test_training_calls_the_taps_too(kind, variables, images):
    model, seen = NORMED[kind](), {}
    logits, _ = model.apply_training(variables, images, lambda n, a: a + 1)
    whole, _ = model.apply_training(
        variables, images, lambda n, a: seen.setdefault(n, a)
    )
    assert tuple(seen) == model.taps
    kernel = variables.parameters["fc"]["kernel"]
    np.testing.assert_allclose(logits, whole + kernel.sum(axis=0)[None] + 1, rtol=1e-4)


@pytest.mark.parametrize("kind", NORMED)
def test_fresh_variables_have_the_same_names_and_shapes(kind, variables):
    fresh = jax.jit(NORMED[kind]().init)(jax.random.key(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_equal(a.shape, b.shape), fresh, variables
    )
    np.testing.assert_array_equal(fresh.statistics["norm"]["mean"], 0)
    np.testing.assert_array_equal(fresh.statistics["norm"]["var"], 1)
    assert abs(fresh.parameters["fc"]["kernel"]).max() > 0


@pytest.mark.parametrize("kind", PLAIN)
def test_a_module_of_ones_own_is_a_model(kind):
    model = PLAIN[kind](mean=(0.0,), std=(1.0,), taps=["logits"])
    variables = model.init(jax.random.key(0))
    assert set(variables.parameters) == {"layer", "fc"} and model.taps == ("logits",)
    assert variables.statistics == {} and model.apply_training is None
    image = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 2, 1)
    x = np.arange(4) / 255
    normed = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    head = variables.parameters["fc"]
    np.testing.assert_allclose(
        model.apply(variables, image)[0],
        normed @ head["kernel"] + head["bias"],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", PLAIN)
def test_a_head_that_the_module_has_not_is_refused(kind):
    with pytest.raises(ValueError, match="one of fc, layer, got 'fc2'"):
        PLAIN[kind](head="fc2")


def test_nnx_modules_with_other_state_are_refused():
    with pytest.raises(ValueError, match="also has layer/rngs/count, layer/rngs/key"):
        nnx_plain(lambda rngs: nnx.Dropout(0.5, rngs=rngs))


def recurrent(rngs):
    rnn = nnx.RNN(nnx.SimpleCell(1, 4, rngs=rngs), rngs=rngs)
    return nnx.Sequential(lambda x: x[..., None], rnn, lambda x: x[:, -1])


def test_nnx_modules_may_have_generators_that_drop_nothing(images):
    """A recurrent cell has some, and attention if it is made with some."""
    model = nnx_plain(recurrent, taps=["logits"])
    variables = jax.jit(model.init)(jax.random.key(0))
    rnn = nnx.merge(
        nnx.graphdef(nnx.eval_shape(lambda: recurrent(nnx.Rngs(0)))),
        nnx.State(variables.parameters["layer"]),
        nnx.state(recurrent(nnx.Rngs(0)), nnx.RngState),
    )
    x = (images.reshape(5, 4) / np.float32(255) - 0.4) / 0.5
    head = variables.parameters["fc"]
    expected = rnn(x) @ head["kernel"] + head["bias"][None]
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x, tap):
        self.variable("calls", "number", jnp.zeros, ())
        return tap("logits", nn.Dense(2, name="fc")(x.reshape(len(x), -1)))


def test_linen_modules_with_other_collections_are_refused():
    with pytest.raises(ValueError, match="no collections but .* also has calls"):
        from_linen(Counting(), **options())


class Forgetful(nn.Module):
    """A module that normalizes by the batch, also in inference."""

    @nn.compact
    def __call__(self, x, tap, mask=None):
        x = nn.BatchNorm(use_running_average=False)(x.reshape(len(x), -1))
        return tap("logits", nn.Dense(2, name="fc")(x))


def test_linen_modules_that_move_statistics_in_inference_fail(images):
    model = from_linen(Forgetful(), **options())
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        model.apply(model.init(jax.random.key(0)), images)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_model_tells_what_it_divides_by(kind):
    assert PLAIN[kind](std=[0.25]).std == (0.25,)
