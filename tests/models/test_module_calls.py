"""Tests the layers of a module that become taps, and the arguments of its call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.acquisition.pseudo_label import argmax
from fkjax.base import UserError
from fkjax.fisher.descriptors import descriptor
from fkjax.models import as_images, from_module
from fkjax.selection.choose import choose
from fkjax.selection.problem import Problem
from tests.models.plain_modules import LinenNet, LinenPerceptron, noisy


def sequential(*widths):
    rngs = nnx.Rngs(0)
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return nnx.Sequential(*[nnx.Linear(a, b, rngs=rngs) for a, b in pairs])


VECTOR = jnp.zeros((1, 4))


def test_found_taps_of_one_size_are_the_last_hidden_layer():
    assert from_module(sequential(4, 8, 6, 3), example=VECTOR).taps == ("layers/1",)


def test_found_taps_are_at_most_three():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(4):
                x = nn.Conv(3, (3, 3), name=f"first{i}")(x)
                x = nn.Conv(3, (3, 3), 2, name=f"last{i}")(x)
            return nn.Dense(2)(x.reshape(len(x), -1))

    example = jnp.zeros((1, 16, 16, 1))
    shapes = jax.eval_shape(Deep().init, jax.random.key(0), example)
    taps = from_module(Deep(), shapes, example=example).taps
    assert taps == ("first2", "first3", "last3")  # at 4 x 4, 2 x 2 and 1 x 1


def test_a_layer_of_one_channel_is_not_found():
    assert from_module(sequential(4, 6, 1, 3), example=VECTOR).taps == ("layers/0",)


def test_a_module_of_its_logits_alone_has_no_taps_to_find():
    with pytest.raises(UserError, match=r"no layer with weights before .* layers/0"):
        from_module(sequential(4, 3), example=VECTOR)
    assert from_module(sequential(4, 3), example=VECTOR, taps=["layers/0"])


class Twice(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.shared = nnx.Linear(4, 4, rngs=rngs)
        self.again = self.shared
        self.fc = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.again(self.fc(self.shared(x))))


class LinenTwice(nn.Module):
    @nn.compact
    def __call__(self, x):
        shared = nn.Dense(4, name="shared")
        return nn.Dense(3)(shared(nn.Dense(4, name="fc")(shared(x))))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_layer_called_twice_is_not_tapped(kind):
    if kind == "nnx":
        module, given, name = Twice(), None, "again"
    else:
        module, name = LinenTwice(), "shared"
        given = jax.eval_shape(module.init, jax.random.key(0), VECTOR)
    adapted = from_module(module, given, example=VECTOR)
    assert adapted.taps == ("fc",) and name not in adapted.model.taps
    with pytest.raises(UserError, match=f"'{name}' .* more than once .* fc "):
        from_module(module, given, example=VECTOR, taps=[name])


class NNXRecurrent(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.rnn = nnx.RNN(nnx.LSTMCell(4, 6, rngs=rngs))
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


class LinenRecurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        forth, back = (nn.RNN(nn.GRUCell(3), name=name) for name in ("forth", "back"))
        return nn.Dense(3)(nn.Bidirectional(forth, back, name="rnn")(x)[:, -1])


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_recurrent_layers_are_taps(kind):
    """They draw from generators of their own in a pass, which is a transformation."""
    x = jax.random.normal(jax.random.key(1), (2, 5, 4))
    if kind == "nnx":
        module, given = NNXRecurrent(), None
        expected = module(x)
    else:
        module = LinenRecurrent()
        given = module.init(jax.random.key(0), x)
        expected = module.apply(given, x)
    model, variables, taps = from_module(module, given, example=x)
    assert taps == ("rnn",)
    seen = {}

    @jax.jit
    def run(variables, x):
        return model.apply(variables, x, lambda n, a: seen.setdefault(n, a))

    logits = run(variables, as_images(x))
    assert seen["rnn"].shape == (2, 5, 6)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


class Derived(nn.Dense):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_call_of_the_class_above_is_part_of_one_call():
    module = nn.Sequential([Derived(4), nn.relu, nn.Dense(3)])
    given = module.init(jax.random.key(0), VECTOR)
    model, variables, taps = from_module(module, given, example=VECTOR)
    assert taps == ("layers_0",)
    seen = {}
    x = jnp.arange(4.0)[None]
    model.apply(variables, as_images(x), lambda n, a: seen.setdefault(n, a))
    dense = variables.parameters["layers_0"]
    np.testing.assert_allclose(
        seen["layers_0"], 2 * (x @ dense["kernel"] + dense["bias"][None]), rtol=1e-5
    )


class LinenRemat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.remat(LinenPerceptron)(name="inner")(x))


class NNXRemat(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.fc, self.head = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.remat(lambda fc, x: fc(x))(self.fc, x))


def test_layers_within_a_transformation_are_taps():
    """Their traced values do not leak out of it: the network is evaluated anew."""
    x = jnp.arange(4.0)[None]
    given = LinenRemat().init(jax.random.key(0), x)
    adapted = from_module(LinenRemat(), given, example=x, taps=["inner/hidden_0"])
    d = descriptor(
        adapted.model, adapted.variables, as_images(x)[0], argmax(), taps=adapted.taps
    )
    dense = given["params"]["inner"]["hidden_0"]
    expected = x @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(d.z["inner/hidden_0"], expected[0], rtol=1e-5)
    for tap in ("fc", "head"):
        model, variables, _ = from_module(NNXRemat(), example=x, taps=[tap])
        d = descriptor(model, variables, as_images(x)[0], argmax(), taps=[tap])
        module = NNXRemat()
        expected = module.fc(x) if tap == "fc" else module(x)
        np.testing.assert_allclose(d.z[tap], expected[0], rtol=1e-5)


def test_variables_other_than_the_modules_own():
    module, other = sequential(4, 8, 3), sequential(4, 8, 3)
    nnx.update(other, noisy(nnx.state(other)))
    x = jnp.arange(4.0)[None]
    for given in (nnx.state(other), nnx.to_pure_dict(nnx.state(other))):
        model, variables, _ = from_module(module, given, example=VECTOR)
        np.testing.assert_allclose(
            model.apply(variables, as_images(x)), other(x), rtol=1e-5
        )
    with pytest.raises(UserError, match=r"layers/0/bias has shape \(9,\)"):
        from_module(module, nnx.state(sequential(4, 9, 3)), example=VECTOR)


def test_examples_of_other_shapes_are_carried():
    for shape, carried in {
        (): (1, 1, 1),
        (5,): (1, 1, 5),
        (4, 5): (4, 5, 1),
        (3, 4, 5): (3, 4, 5),
        (2, 3, 4, 5): (1, 1, 120),
    }.items():
        assert as_images(np.zeros((6, *shape))).shape == (6, *carried)

    class Sum(nnx.Module):
        def __call__(self, x):
            assert x.shape[1:] == (2, 3, 4, 5)
            return x.sum(axis=(1, 2, 3)) + self.kernel[...][None]

        def __init__(self):
            self.kernel = nnx.Param(jnp.zeros(5))
            self.identity = nnx.Dropout(0.0)

    x = np.random.default_rng(0).normal(size=(6, 2, 3, 4, 5)).astype(np.float32)

    class Net(Sum):
        def __call__(self, x):
            return self.identity(super().__call__(x))

    model, variables, _ = from_module(Net(), example=x, taps=["identity"])
    np.testing.assert_allclose(
        model.apply(variables, as_images(x)), x.sum(axis=(1, 2, 3)), rtol=1e-5
    )


def test_without_preprocess_integers_become_floats_unscaled():
    module = sequential(4, 8, 3)
    model, variables, _ = from_module(module, example=VECTOR)
    x = np.array([[0, 1, 128, 255]], np.uint8)
    np.testing.assert_allclose(
        model.apply(variables, as_images(x)), module(jnp.float32(x)), rtol=1e-5
    )


class Conditional(nn.Module):
    @nn.compact
    def __call__(self, x, scale, *, deterministic=False):
        x = nn.Dropout(0.5)(nn.Dense(4)(x), deterministic=deterministic)
        return nn.Dense(3)(x) * scale


def test_arguments_beside_the_batch():
    given = Conditional().init(jax.random.key(0), VECTOR, 1.0, deterministic=True)
    x = jnp.arange(4.0)[None]
    model, variables, _ = from_module(
        Conditional(), given, example=VECTOR, apply_kwargs={"scale": 3.0}
    )
    np.testing.assert_allclose(
        model.apply(variables, as_images(x)),
        Conditional().apply(given, x, 3.0, deterministic=True),
        rtol=1e-5,
    )
    with pytest.raises(UserError, match="TypeError: .*scale.*apply_kwargs"):
        from_module(Conditional(), given, example=VECTOR)
    random = {"scale": 1.0, "deterministic": False}
    with pytest.raises(UserError, match="cannot be called in inference .*dropout"):
        from_module(Conditional(), given, example=VECTOR, apply_kwargs=random)


class Pair(nnx.Module):
    def __call__(self, x):
        return x, x


MISTAKES = {
    "no module": ((lambda x: x,), {}, "an instance of a Flax NNX or Linen module"),
    "a class": ((LinenNet,), {}, "an instance of .*, got LinenNet"),
    "no variables": ((LinenNet(),), {}, "needs the dict of its variables"),
    "other variables": ((LinenNet(), {"params": {}}), {}, "cannot be called"),
    "one example": ((sequential(4, 3),), {"example": jnp.zeros(4)}, "must be a batch"),
    "a list": ((sequential(4, 3),), {"example": [[1.0]]}, "batch .* got list"),
    "wrong example": (
        (sequential(4, 8, 3),),
        {"example": jnp.zeros((1, 5))},
        r"cannot be called in inference on a batch of shape \(2, 5\) of float32",
    ),
    "unknown tap": (
        (sequential(4, 8, 3),),
        {"taps": ["conv"]},
        r"calls no layer 'conv': choose taps from layers/0 \(8,\), layers/1 \(3,\)",
    ),
    "tap twice": ((sequential(4, 3),), {"taps": ["layers/0"] * 2}, "different names"),
    "no tap": ((sequential(4, 3),), {"taps": []}, "one or more"),
    "a string": ((sequential(4, 3),), {"taps": "layers/0"}, "names of layers"),
    "classes": ((sequential(4, 3),), {"num_classes": 4}, "3 classes, not of 4"),
    "two outputs": ((Pair(),), {}, "one array of logits.* got tuple"),
    "maps": (
        (sequential(4, 3),),
        {"example": jnp.zeros((1, 2, 4))},
        r"logits of shape \[N, C\], got shape \(2, 2, 3\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told(mistake):
    given, options, message = mistake
    with pytest.raises(UserError, match=message):
        from_module(*given, **{"example": VECTOR, **options})


def test_a_query_of_a_plain_module():
    """Queries vectors of three classes, some of which the model misclassifies."""
    rng = np.random.default_rng(0)
    centers = 4 * np.eye(3, 4)
    labels = np.arange(30) % 3
    x = (centers[labels] + rng.normal(size=(30, 4)) / 4).astype(np.float32)
    module = sequential(4, 8, 3)
    model, variables, taps = from_module(module, example=x)
    predicted = np.asarray(module(x).argmax(axis=1))
    assert 0 < (predicted != labels).sum() < 30
    problem = Problem(
        model=model,
        variables=variables,
        taps=taps,
        pool=as_images(x),
        pool_ids=range(30),
        is_unlabeled=np.ones(30, bool),
        validation=as_images(x),
        validation_ids=range(30),
        validation_labels=labels,
        classes="abc",
    )
    selection = choose(problem, budget=5)
    np.testing.assert_array_equal(selection.is_mistake, predicted != labels)
    # The pool is the validation set: each mistake is most similar to itself.
    np.testing.assert_array_equal(selection.indices, selection.targets)
    assert len(set(selection.indices)) == 5
