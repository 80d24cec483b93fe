"""Compares converted Flax modules with modules that call a tap themselves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.acquisition.pseudo_label import argmax
from fkjax.base import UserError, Variables
from fkjax.fisher.descriptors import descriptor
from fkjax.models import as_images, from_linen, from_module, from_nnx, layers
from fkjax.selection.choose import choose
from fkjax.selection.problem import Problem

LIST = getattr(nnx, "List", list)  # not available in flax 0.11
EXAMPLE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.uint8)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(nnx.relu(self.norm(self.conv(x))))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.block = NNXBlock(rngs)
        self.conv = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.fc1 = nnx.Linear(96, 5, rngs=rngs)
        self.fc2 = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(self.block(x)))
        return self.fc2(nnx.relu(self.fc1(x.reshape(len(x), -1))))


class NNXTapped(NNXNet):
    """The same module with calls of a tap, for `from_nnx`."""

    def __init__(self, rngs):
        super().__init__(rngs)
        del self.block.drop

    def __call__(self, x, tap, mask=None):
        block = self.block
        x = tap("block/conv", block.conv(x))
        x = tap("block", nnx.relu(block.norm(x)))
        x = nnx.relu(tap("conv", self.conv(x)))
        x = nnx.relu(tap("fc1", self.fc1(x.reshape(len(x), -1))))
        return tap("fc2", self.fc2(x))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, train, tap=None):
        tap = tap or (lambda name, a: a)
        x = tap("block/conv", nn.Conv(4, (3, 3), name="conv")(x))
        x = nn.relu(nn.BatchNorm(not train, name="norm")(x))
        return tap("block", nn.Dropout(0.5, deterministic=not train)(x))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(
            nn.Conv(6, (3, 3), 2, name="conv")(LinenBlock(name="block")(x, train))
        )
        x = nn.relu(nn.Dense(5, name="fc1")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="fc2")(x)


class LinenTapped(nn.Module):
    @nn.compact
    def __call__(self, x, tap, mask=None):
        x = LinenBlock(name="block")(x, train=False, tap=tap)
        x = nn.relu(tap("conv", nn.Conv(6, (3, 3), 2, name="conv")(x)))
        x = nn.relu(tap("fc1", nn.Dense(5, name="fc1")(x.reshape(len(x), -1))))
        return tap("fc2", nn.Dense(3, name="fc2")(x))


class NNXPerceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden = LIST([nnx.Linear(n, 6, rngs=rngs) for n in (7, 6)])
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x, tap=None, mask=None):
        if tap:
            x = x.reshape(len(x), -1)
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            x = nnx.tanh(tap(f"hidden/{i}", x) if tap else x)
        return self.head(x)


class LinenPerceptron(nn.Module):
    @nn.compact
    def __call__(self, x, tap=None, mask=None):
        if tap:
            x = x.reshape(len(x), -1)
        for i in range(2):
            x = nn.Dense(6, name=f"hidden_{i}")(x)
            x = nn.tanh(tap(f"hidden_{i}", x) if tap else x)
        return nn.Dense(3, name="head")(x)


TAPS = ("block/conv", "block", "conv", "fc1", "fc2")


def tapped(make, module, taps, head, image_shape):
    return make(
        module,
        taps=taps,
        head=head,
        image_shape=image_shape,
        num_classes=3,
        mean=[0.0] * image_shape[-1],
        std=[1.0] * image_shape[-1],
    )


def noisy(tree):
    """Adds noise, so that no statistic has its initial value and no bias is zero."""
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(0)
    return treedef.unflatten(
        [x + rng.uniform(-0.2, 0.2, x.shape).astype(np.float32) for x in leaves]
    )


def scaled(batch):
    return batch.astype(jnp.float32) / 255


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
        seen["layers_0"], 2 * (x @ dense["kernel"] + dense["bias"]), rtol=1e-5
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


def test_layers_within_a_transformation_are_no_taps():
    """A tap would leak a traced value out of the transformation."""
    given = jax.eval_shape(LinenRemat().init, jax.random.key(0), VECTOR)
    with pytest.raises(UserError, match="'inner/hidden_0' .* within a transformation"):
        from_module(LinenRemat(), given, example=VECTOR, taps=["inner/hidden_0"])
    with pytest.raises(UserError, match="no layer 'fc': .* head"):
        from_module(NNXRemat(), example=VECTOR, taps=["fc"])
    model, variables, _ = from_module(NNXRemat(), example=VECTOR, taps=["head"])
    d = descriptor(model, variables, as_images(VECTOR)[0], argmax(), taps=["head"])
    np.testing.assert_allclose(d.z["head"], NNXRemat()(VECTOR)[0], rtol=1e-6)


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
            return x.sum(axis=(1, 2, 3)) + self.kernel

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
        model,
        variables,
        taps,
        as_images(x),
        range(30),
        np.ones(30, bool),
        as_images(x),
        range(30),
        labels,
        "abc",
    )
    selection = choose(problem, budget=5)
    np.testing.assert_array_equal(selection.is_mistake, predicted != labels)
    # The pool is the validation set: each mistake is most similar to itself.
    np.testing.assert_array_equal(selection.indices, selection.targets)
    assert len(set(selection.indices)) == 5


def test_variables_are_an_argument_of_the_model(cases):
    model, variables, _ = cases["nnx perceptron"][0]
    zeros = Variables(jax.tree.map(jnp.zeros_like, variables.parameters))
    np.testing.assert_array_equal(model.apply(zeros, cases["nnx perceptron"][2]), 0)
