"""Taps of layers within transformations, and of layers called more than once."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.acquisition.pseudo_label import argmax
from fkjax.base import UserError
from fkjax.fisher.descriptors import descriptor, features
from fkjax.models import as_images, from_module, layers

DEPTH, WIDTH = 4, 3
X = jax.random.normal(jax.random.key(1), (2, 5, WIDTH))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        y = nn.relu(nn.Dense(4, name="in")(x))
        return x + nn.Dense(WIDTH, name="out")(y), y.mean()


class Scanned(nn.Module):
    """Blocks under remat in a scan from the last; all of its outputs are used."""

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=DEPTH,
            reverse=True,
        )
        x, means = blocks(name="blocks")(x, None)
        total = (means * (1 + jnp.arange(DEPTH))).sum()
        return nn.Dense(2, name="head")(x.mean(1) + total)


class Unrolled(nn.Module):
    """The same network without transformations."""

    @nn.compact
    def __call__(self, x):
        means = {}
        for i in range(DEPTH)[::-1]:
            x, means[i] = Block(name=f"block{i}")(x)
        total = sum(mean * (i + 1) for i, mean in means.items())
        return nn.Dense(2, name="head")(x.mean(1) + total)


def described(adapted, x, taps):
    """Returns the descriptors of examples; the names of the taps are dropped."""

    @jax.jit
    def of(variables, images):
        def one(image):
            return descriptor(adapted.model, variables, image, argmax(), taps=taps)

        return jax.vmap(one)(images)

    found = of(adapted.variables, as_images(x))
    return found.log_probs, [(found.z[tap], found.g[tap]) for tap in taps]


def close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        actual,
        expected,
    )


def test_layers_in_scan_and_remat_are_those_of_the_network_without():
    module, unrolled = Scanned(), Unrolled()
    params = module.init(jax.random.key(0), X)["params"]
    split = {
        f"block{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        for i in range(DEPTH)
    }
    steps = [0, 2, 3]  # cut, skipped, and two in sequence
    taps = [f"blocks/{layer}[{i}]" for i in steps for layer in ("in", "out")]
    adapted = from_module(module, params, example=X, taps=taps)
    order = range(DEPTH)[::-1]
    same = [f"block{order[i]}/{layer}" for i in steps for layer in ("in", "out")]
    plain = from_module(
        unrolled, split | {"head": params["head"]}, example=X, taps=same
    )
    close(described(adapted, X, taps), described(plain, X, same))
    found = from_module(module, params, example=X)
    assert found.taps == ("blocks/out[3]",)
    # Layers that are not chosen stay within their transformations.
    assert found.model.taps == ("blocks/out[3]", "head")
    with pytest.raises(UserError, match=r"'blocks/out' .* more than once .*out\[0\]"):
        from_module(module, params, example=X, taps=["blocks/out"])


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.fc(x))


class NNXScanned(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=DEPTH)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def blocks(rngs):
            return NNXBlock(rngs)

        self.blocks = blocks(rngs)
        self.last = NNXBlock(rngs)
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def apply(x, block):
            return block(x)

        x = nnx.remat(lambda block, x: block(x))(self.last, apply(x, self.blocks))
        return self.head(x.mean(1))


def test_layers_in_the_transformations_of_nnx():
    module = NNXScanned(nnx.Rngs(0))
    adapted = from_module(module, example=X)
    assert adapted.taps == ("last/fc",)
    taps = ["blocks/fc[1]", "last/fc", "last"]
    adapted = from_module(module, example=X, taps=taps)
    log_probs, pairs = described(adapted, X, taps)
    x, fc = X, module.blocks.fc
    for i in range(DEPTH):
        y = x @ fc.kernel[i] + fc.bias[i][None, None]
        if i == 1:
            close(pairs[0][0], y.mean(1))
        x = x + jax.nn.relu(y)
    close(pairs[1][0], module.last.fc(x).mean(1))
    close(pairs[2][0], module.last(x).mean(1))
    logits = module.head(module.last(x).mean(1))
    close(log_probs, jax.nn.log_softmax(logits))
    # The descriptor g of the block's output is the gradient of its mean.
    errors = jax.nn.one_hot(logits.argmax(1), 2) - jax.nn.softmax(logits)
    close(pairs[2][1], errors @ module.head.kernel.T / X.shape[1])


class NNXWrapped(nnx.Module):
    def __init__(self, wrap):
        rngs = nnx.Rngs(0)
        self.fc = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)
        self.apply = wrap(lambda fc, x: fc(x))

    def __call__(self, x):
        return self.head(nnx.relu(self.apply(self.fc, x)).mean(1))


class LinenBlock(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="fc")(x)


class LinenWrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(LinenBlock(name="block")(x).mean(1))


@pytest.mark.parametrize("wrap", [nnx.jit, nnx.remat, nn.jit])
def test_what_flax_has_compiled_before_is_tapped_as_well(wrap):
    """Flax uses the trace of a function again, which has the marks or has none."""
    if wrap is nn.jit:
        module, name = LinenWrapped(), "block/fc"
        variables = module.init(jax.random.key(0), X)
        fc = variables["params"]["block"]["fc"]
        expected = X @ fc["kernel"] + fc["bias"][None, None]
    else:
        module, variables, name = NNXWrapped(wrap), None, "fc"
        expected = module.fc(X)
    for preprocess in (None, lambda x: x):
        model, held, taps = from_module(
            module, variables, example=X, preprocess=preprocess
        )
        assert taps == (name,)
        model.apply(held, as_images(X)[:1])
        _, z = features(model, held, as_images(X)[0], taps=taps)
        close(z[name], expected[0].mean(0))


class Repeated(nnx.Module):
    def __init__(self, rngs):
        self.shared = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.shared(nnx.relu(self.shared(x))))
        return self.head(x.mean(1))


def test_the_calls_of_a_repeated_layer_are_taps():
    module = Repeated(nnx.Rngs(0))
    adapted = from_module(module, example=X)
    assert adapted.taps == ("shared[1]",)
    _, ((first, _), (second, _)) = described(adapted, X, ["shared[0]", "shared[1]"])
    close(first, module.shared(X).mean(1))
    close(second, module.shared(nnx.relu(module.shared(X))).mean(1))


class Experts(nn.Module):
    """All experts see all tokens; `vmap` maps over their weights."""

    @nn.compact
    def __call__(self, x):
        expert = nn.vmap(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=2,
        )
        gates = nn.softmax(nn.Dense(2, name="gate")(x))
        return jnp.einsum("nte,entd->ntd", gates, expert(WIDTH, name="expert")(x))


class Loop(nn.Module):
    """A loop with the same weights, and a branch."""

    @nn.compact
    def __call__(self, x):
        fc = nn.Dense(WIDTH, name="fc")
        step = nn.scan(
            lambda fc, x, _: (nn.relu(fc(x)), None),
            variable_broadcast="params",
            split_rngs={"params": False},
            length=3,
        )
        return step(fc, x, None)[0]


class Mixed(nn.Module):
    around: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, name="stem")(x[:, 0])[:, None]
        x = (Experts(name="experts") if self.around else Loop(name="loop"))(x)
        return nn.Dense(2, name="head")(x.mean(1))


def of(module, example=X):
    variables = jax.eval_shape(module.init, jax.random.key(0), example)
    return module, variables


def test_the_module_around_a_layer_takes_its_place():
    """A mixture of experts, a loop with the same weights."""
    for around, name, obstacle in (
        (True, "experts", "vmap"),
        (False, "loop", "the same weights"),
    ):
        found = from_module(*of(Mixed(around)), example=X)
        assert found.taps == ("stem", name)
        inner = [x for x in layers(*of(Mixed(around)), example=X) if x.obstacle]
        assert len(inner) == 1 and obstacle in inner[0].obstacle
        with pytest.raises(UserError, match=rf"cannot be tapped .* {obstacle}"):
            from_module(*of(Mixed(around)), example=X, taps=[inner[0].name])


class Bare(Loop):
    """The loop is not in a module of its own."""

    stem: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, name="stem")(x) if self.stem else x
        return nn.Dense(2, name="head")(super().__call__(x).mean(1))


def test_what_is_left_out_is_named():
    with pytest.warns(UserWarning, match=r"taps stem leave out .*: fc is called in a"):
        assert from_module(*of(Bare()), example=X).taps == ("stem",)
    with pytest.raises(UserError, match=r"fc is called in a loop .* parameters need"):
        from_module(*of(Bare(stem=False)), example=X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_module(*of(Bare()), example=X, taps=["stem"])


class Branches(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2))
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.cond(x.sum() > 0, lambda s, x: s.a(x), lambda s, x: s.b(x), self, x)
        return self.head(x.mean(1))


def test_branches_are_left_out():
    with pytest.raises(UserError, match="each of ., . is called within cond"):
        from_module(Branches(nnx.Rngs(0)), example=X)


class Bag(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2)(nn.Embed(9, WIDTH, name="embed")(tokens).mean(1))


def test_an_embedding_is_a_layer_with_weights():
    tokens = jnp.zeros((1, 4), jnp.int32)
    assert from_module(*of(Bag(), tokens), example=tokens).taps == ("embed",)


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.remat_scan(nn.Dense, lengths=(2, 3))
        return nn.Dense(2, name="head")(block(WIDTH, name="deep")(x).mean(1))


def test_a_scan_of_scans():
    variables = Deep().init(jax.random.key(0), X)
    taps = ["deep[1]", "deep[5]"]
    adapted = from_module(Deep(), variables, example=X, taps=taps)
    log_probs, ((second, _), (last, _)) = described(adapted, X, taps)
    deep, x, means = variables["params"]["deep"], X, []
    for i in range(2):
        for j in range(3):
            x = x @ deep["kernel"][i, j] + deep["bias"][i, j][None, None]
            means.append(x.mean(1))
    close((second, last), (means[1], means[5]))
    logits = Deep().apply(variables, X)
    close(log_probs, jax.nn.log_softmax(logits))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="embed")(x)
        probe = jnp.broadcast_to(x.mean(1, keepdims=True), (len(x), 1, 8))
        y = nn.MultiHeadDotProductAttention(2, name="attention")(probe, x)
        return nn.Dense(2, name="head")(y[:, 0])


def test_heads_are_flattened_and_queries_and_keys_are_not_found():
    """The key would be the last layer at the tokens' size, after the value."""
    module, variables = Attention(), Attention().init(jax.random.key(0), X)
    adapted = from_module(module, variables, example=X)
    assert adapted.taps == ("attention/value", "attention/out")
    shapes = {x.name: x.shape for x in layers(module, variables, example=X)}
    assert shapes["attention/value"] == (5, 8) and shapes["attention/query"] == (1, 8)
    _, ((z, g), _) = described(adapted, X, adapted.taps)
    params = variables["params"]
    value = params["attention"]["value"]
    x = X @ params["embed"]["kernel"] + params["embed"]["bias"][None, None]
    y = jnp.einsum("ntd,dhk->nthk", x, value["kernel"]) + value["bias"][None, None]
    close(z, y.mean(1).reshape(2, 8))
    assert g.shape == (2, 8)


def test_features_of_einsum_and_of_general_layers():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.general = nnx.LinearGeneral((3,), (2, 2), rngs=rngs)
            self.einsum = nnx.Einsum("nthk,hkab->ntab", (2, 2, 3, 4), rngs=rngs)
            self.mixed = nnx.Einsum("ntab,abt->nta", (3, 4, 5), rngs=rngs)
            self.head = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.mixed(self.einsum(self.general(x))).mean(1))

    shapes = {x.name: x.shape for x in layers(Net(nnx.Rngs(0)), example=X)}
    expected = {"general": (5, 4), "einsum": (5, 12), "mixed": (5, 3), "head": (2,)}
    assert shapes == expected
