"""Factors of whole models: of Linen, of NNX and the LeNet."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.fisher import capture, vectors
from fkjax.models import lenet
from tests.fisher.captures import C, check, normal, randomized


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class LinenNet(nn.Module):
    """Strides, padding, 1 x 1 and grouped convolutions, norms; a residual net."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=False, name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        y = nn.Conv(8, (3, 3), strides=2, padding="SAME", name="down")(x)
        y = nn.LayerNorm(name="layer_norm")(y)
        y = nn.Conv(8, (3, 3), feature_group_count=2, name="grouped")(nn.relu(y))
        x = y + nn.Conv(8, (1, 1), strides=2, use_bias=False, name="shortcut")(x)
        return nn.Dense(C, name="head")(nn.relu(x).mean((1, 2)))


def test_a_linen_residual_net():
    net = LinenNet()
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    theta = randomized(variables["params"])
    statistics = {"norm": {"mean": normal(5, 4), "var": normal(6, 4) ** 2}}

    def log_probs_fn(theta, x):
        logits = net.apply({"params": theta, "batch_stats": statistics}, x[None])
        return jax.nn.log_softmax(logits[0])

    kernels = [f"{name}/kernel" for name in ("stem", "down", "shortcut", "head")]
    check(log_probs_fn, theta, normal(7, 4, 8, 8, 3), kernels)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 4, decode=False, deterministic=True, rngs=rngs
        )
        self.head = nnx.Linear(4, C, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.attention(x.reshape(1, -1, 4))
        return self.head(x.mean(1))


def test_an_nnx_module_with_attention():
    graph, parameters, rest = nnx.split(NNXNet(nnx.Rngs(0)), nnx.Param, ...)
    theta = randomized(nnx.to_pure_dict(parameters))

    def log_probs_fn(theta, x):
        module = nnx.merge(graph, nnx.State(theta), rest)
        return jax.nn.log_softmax(module(x[None])[0])

    # The key's bias shifts all attention logits equally: its true gradient is 0.
    xs = normal(1, 3, 6, 6, 3)
    plan = capture.plan(log_probs_fn, theta, xs[0])
    expected = {
        "conv/kernel",
        "head/kernel",
        *(f"attention/{part}/kernel" for part in ("query", "key")),
        *(f"attention/{part}/kernel" for part in ("value", "out")),
    }
    assert set(plan.uses) == expected

    @jax.jit
    def both(x, label):
        captured = capture.capture(log_probs_fn, theta, x, label)
        plain = vectors.fisher_vector(log_probs_fn, theta, x, label)
        return capture.gradient(plan, captured), plain

    actual, expected = jax.vmap(both)(xs, jnp.arange(3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
        actual,
        expected,
    )


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_lenet_by_its_fast_and_by_its_plain_convolutions(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model = lenet((16, 16, 1), C, mean=(0,), std=(1,))
    variables = randomized(jax.eval_shape(model.init, jax.random.key(0)))
    variables = jax.tree.map(lambda leaf: leaf * 0.3, variables)
    log_probs_fn, theta = vectors.of_parameters(model, variables)
    names = ("conv1", "conv2", "fc1", "fc2")
    kernels = [f"{name}/kernel" for name in names]
    # Exact in the float32 in which images are scaled.
    images = np.random.default_rng(0).integers(-2, 3, (3, 16, 16, 1))
    plan = check(log_probs_fn, theta, jnp.asarray(255.0 * images), kernels)
    assert [plan.uses[path][0][:4] for path in kernels] == [
        ("convolution", 144, 25, 10),
        ("convolution", 4, 250, 20),
        ("dense", 1, 20, 50),
        ("dense", 1, 50, C),
    ]
