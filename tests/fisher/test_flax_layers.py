"""Fisher vectors of Flax's layers against `vmap(grad)`, all in one network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.base import path_of
from fkjax.fisher import capture, vectors

C, TOKENS, WIDTH = 3, 5, 4
IMAGE, VOLUME = (1, 6, 6, WIDTH), (1, 4, 4, 3, WIDTH)
TEXT = (1, TOKENS, WIDTH)


class Tied(nn.Module):
    """An embedding that is also the last layer."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, WIDTH, name="embed")
        return embed.attend(nn.Dense(WIDTH, name="fc")(embed(tokens)))


class Experts(nn.Module):
    """A mixture of stacked experts; the gate is a dense layer."""

    @nn.compact
    def __call__(self, x):
        gates = nn.softmax(nn.Dense(2, name="gate")(x))
        kernel = self.param("kernel", nn.initializers.normal(), (2, WIDTH, 3))
        sent = jnp.einsum("nte,ntd->entd", gates, x)
        return jnp.einsum("entd,edk->entk", sent, kernel).sum(0)


class ScannedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.tanh(nn.Dense(WIDTH, name="fc")(x)), None


def scanned():
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    return nn.scan(nn.remat(ScannedBlock), length=2, **options)()


KINDS = {
    "general": (lambda: nn.DenseGeneral((2, 3)), TEXT, ["kernel"]),
    "axes": (lambda: nn.DenseGeneral(3, axis=(-2, -1)), TEXT, ["kernel"]),
    "batched": (
        lambda: nn.DenseGeneral(3, batch_dims=(0,)),
        (2, TOKENS, WIDTH),
        [],
    ),
    "einsum": (lambda: nn.Einsum((WIDTH, 2, 3), "ntd,dhk->nthk"), TEXT, ["kernel"]),
    "line": (lambda: nn.Conv(3, (3,), strides=2), TEXT, ["kernel"]),
    "volume": (lambda: nn.Conv(3, (2, 2, 2)), VOLUME, ["kernel"]),
    "dilated": (lambda: nn.Conv(3, (3, 3), kernel_dilation=2), IMAGE, ["kernel"]),
    "transposed": (
        lambda: nn.ConvTranspose(3, (3, 3), strides=(2, 2)),
        IMAGE,
        ["kernel"],
    ),
    "depthwise": (
        lambda: nn.Conv(WIDTH, (3, 3), feature_group_count=WIDTH),
        IMAGE,
        [],
    ),
    "local": (lambda: nn.ConvLocal(3, (3, 3)), IMAGE, []),
    "norms": (
        lambda: nn.Sequential([nn.LayerNorm(), nn.GroupNorm(2), nn.RMSNorm()]),
        TEXT,
        [],
    ),
    "attention": (
        lambda: nn.MultiHeadDotProductAttention(2),
        TEXT,
        [f"{part}/kernel" for part in ("query", "key", "value", "out")],
    ),
    "tied": (Tied, (1, TOKENS), ["fc/kernel"]),
    "lstm": (lambda: nn.RNN(nn.OptimizedLSTMCell(3)), TEXT, []),
    "experts": (Experts, TEXT, ["gate/kernel"]),
    "scanned": (scanned, TEXT, []),
    "normed": (lambda: nn.WeightNorm(nn.Dense(3)), TEXT, []),
    "lora": (
        lambda: nnx.LoRALinear(WIDTH, 5, lora_rank=2, rngs=nnx.Rngs(0)),
        TEXT,
        ["kernel", "lora/lora_a", "lora/lora_b"],
    ),
    "nnx attention": (
        lambda: nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=nnx.Rngs(0)),
        TEXT,
        [f"{part}/kernel" for part in ("query", "key", "value", "out")],
    ),
    "gru": (lambda: nnx.RNN(nnx.GRUCell(WIDTH, 3, rngs=nnx.Rngs(0))), TEXT, []),
    "nnx transposed": (
        lambda: nnx.ConvTranspose(WIDTH, 3, (3, 3), rngs=nnx.Rngs(0)),
        IMAGE,
        ["kernel"],
    ),
}
"""A function that makes the layer, the shape of its input for one example, and the
leaves whose gradients stay in factors."""
FEW = "attention", "transposed", "depthwise", "tied", "experts", "scanned", "lora"


def array(i, shape):
    return jnp.asarray(np.random.default_rng(i).normal(size=shape), jnp.float32)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(FEW, id="few"),
        pytest.param(
            tuple(name for name in KINDS if name not in FEW),
            id="others",
            marks=pytest.mark.integration,
        ),
    ],
)
def kinds(request):
    return request.param


@pytest.fixture(scope="module")
def world(kinds):
    """The network, its parameters, and two examples, which are dicts of inputs."""
    xs, theta, parts = {}, {}, {}
    for i, name in enumerate(kinds):
        make, shape, _ = KINDS[name]
        xs[name] = array(i, (2, *shape))
        if name == "tied":
            xs[name] = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 1, 5)))
        module = make()
        if isinstance(module, nn.Module):
            init = jax.eval_shape(module.init, jax.random.key(0), xs[name][0])
            theta[name] = init["params"]
            parts[name] = module
        else:
            graph, parameters, rest = nnx.split(module, (nnx.Param, nnx.LoRAParam), ...)
            theta[name] = nnx.to_pure_dict(parameters)
            parts[name] = graph, rest
    leaves, treedef = jax.tree.flatten(theta)
    leaves = [0.5 * array(100 + i, leaf.shape) for i, leaf in enumerate(leaves)]

    def output(part, parameters, x):
        if isinstance(part, nn.Module):
            y = part.apply({"params": parameters}, x)
            return y[0] if isinstance(y, tuple) else y
        graph, rest = part
        rest = jax.tree.map(lambda leaf: leaf, rest)
        return nnx.merge(graph, nnx.State(parameters), rest)(x)

    def log_probs_fn(theta, x):
        logits = jnp.zeros(C)
        for name, part in parts.items():
            y = jnp.tanh(output(part, theta[name], x[name])).reshape(-1)
            logits += jnp.sin(jnp.arange(C * y.size)).reshape(C, -1) @ y / y.size
        return jax.nn.log_softmax(logits)

    return log_probs_fn, treedef.unflatten(leaves), xs


def test_what_stays_in_factors(kinds, world):
    log_probs_fn, theta, xs = world
    x = jax.tree.map(lambda x: x[0], xs)
    found = capture.plan(log_probs_fn, theta, x)
    expected = {f"{name}/{leaf}" for name in kinds for leaf in KINDS[name][2]}
    assert set(found.uses) == expected
    assert set(found.rest) == set(found.paths) - expected


def test_fisher_vectors_are_those_of_brute_force(world):
    log_probs_fn, theta, xs = world
    labels = jnp.arange(2)
    plan = capture.plan(log_probs_fn, theta, jax.tree.map(lambda x: x[0], xs))

    @jax.jit
    def both(theta):
        def one(x, label):
            return capture.gradient(
                plan, capture.capture(log_probs_fn, theta, x, label)
            )

        return jax.vmap(one)(xs, labels), vectors.fisher_vectors(
            log_probs_fn, theta, xs, labels
        )

    actual, expected = both(theta)
    for kind, vector in expected.items():
        scale = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(vector))
        assert scale > 1e-3
        jax.tree_util.tree_map_with_path(
            lambda path, a, e, kind=kind, scale=scale: np.testing.assert_allclose(
                a, e, rtol=0, atol=1e-6 * scale, err_msg=f"{kind}/{path_of(path)}"
            ),
            actual[kind],
            vector,
        )
