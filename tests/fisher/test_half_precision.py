"""Networks in bfloat16 against the same weights in float32.

Rounding the activations of a network to 8 bits turns its gradients by a few degrees:
the cosine to those in float32 must be 0.99 or more, and the length within 5%.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.pseudo_label import given
from fkjax.base import Model, Variables, log_probs, no_tap
from fkjax.fisher import Factors, capture, descriptor, fisher_vectors, of_parameters
from fkjax.fisher.gram import gram
from fkjax.models import from_module
from fkjax.sketch import embed, identity

NUM, CLASSES = 6, 4
COSINE, LENGTH = 0.99, 0.05


class MLP(nn.Module):
    dtype: object

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.gelu(nn.Dense(32, dtype=self.dtype)(x))
        return nn.Dense(CLASSES, dtype=self.dtype)(x)


class Convolutional(nn.Module):
    dtype: object

    @nn.compact
    def __call__(self, x):
        for features in (8, 16):
            x = nn.Conv(features, (3, 3), strides=2, dtype=self.dtype)(x)
            x = nn.gelu(nn.GroupNorm(4, dtype=self.dtype)(x))
        return nn.Dense(CLASSES, dtype=self.dtype)(x.mean((1, 2)))


class ViT(nn.Module):
    dtype: object

    @nn.compact
    def __call__(self, x):
        options = {"dtype": self.dtype}
        x = nn.Conv(16, (2, 2), 2, **options)(x).reshape(len(x), -1, 16)
        y = nn.LayerNorm(**options)(x)
        x += nn.MultiHeadDotProductAttention(2, **options)(y, y)
        y = nn.gelu(nn.Dense(32, **options)(nn.LayerNorm(**options)(x)))
        x += nn.Dense(16, **options)(y)
        return nn.Dense(CLASSES, **options)(x.mean(1))


class LSTM(nn.Module):
    dtype: object

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), 8, -1)
        x = nn.RNN(nn.LSTMCell(16, dtype=self.dtype))(x)
        return nn.Dense(CLASSES, dtype=self.dtype)(x[:, -1])


XS = jax.random.normal(jax.random.key(0), (NUM, 8, 8, 1))
LABELS = jnp.arange(NUM) % CLASSES


def results(module, variables):
    """The Fisher vectors of parameters, and z and g, of all examples."""
    adapted = from_module(module, variables, example=XS)
    model, variables, taps = adapted
    log_probs_fn, theta = of_parameters(model, variables)
    exact = identity()

    @jax.jit
    def both(theta, xs, labels):
        def one(x, label):
            d = descriptor(model, Variables(theta), x, given(label), taps=taps)
            z, g = (jnp.concatenate([b[tap] for tap in taps]) for b in (d.z, d.g))
            return d.log_probs, z, g

        u = embed(log_probs_fn, theta, xs, labels, exact, {})
        return u, *jax.vmap(one)(xs, labels)

    found = both(theta, XS, LABELS)
    assert all(x.dtype == jnp.float32 for x in found)
    plan = capture.plan(log_probs_fn, theta, XS[0])
    return {"u": found[0], "z": found[2], "g": found[3]}, set(plan.uses)


@pytest.mark.parametrize(
    "kind",
    [
        MLP,
        Convolutional,
        pytest.param(ViT, marks=pytest.mark.integration),
        pytest.param(LSTM, marks=pytest.mark.integration),
    ],
)
def test_bfloat16_is_near_float32(kind):
    drawn = jax.jit(kind(jnp.float32).init)(jax.random.key(1), XS)
    # Weights that bfloat16 can hold, and a last layer that is sure of some examples.
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), drawn)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    expected, uses = results(kind(jnp.float32), wide)
    for name, dtype, variables in (
        ("bfloat16 compute", jnp.bfloat16, wide),
        ("bfloat16 parameters", jnp.bfloat16, rounded),
    ):
        found, now = results(kind(dtype), variables)
        assert now == uses, f"{name}: other leaves stay in factors"
        for what in found:
            x, y = (np.asarray(v[what], np.float64) for v in (found, expected))
            lengths = [np.linalg.norm(v, axis=1) for v in (x, y)]
            cosines = (x * y).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-30)
            assert cosines.min() >= COSINE, (name, what, cosines)
            ratios = lengths[0] / lengths[1]
            assert abs(ratios - 1).max() <= LENGTH, (name, what, ratios)


def test_an_example_that_the_model_is_sure_of():
    """In bfloat16, 1 - p of p = 0.9999 is 0, and the gradient is noise."""
    w = (jax.random.normal(jax.random.key(0), (32, 10)) * 1.2).astype(jnp.bfloat16)

    def apply(variables, images, tap=None):
        return images.reshape(len(images), -1).astype(jnp.bfloat16) @ variables[0]["w"]

    model = Model(lambda key: None, apply, (), "", (1, 1, 32), 10)
    log_probs_fn, theta = of_parameters(model, Variables({"w": w}))

    def expected_fn(theta, x):
        return jax.nn.log_softmax(apply((theta,), x[None])[0].astype(jnp.float32))

    xs = jax.random.normal(jax.random.key(1), (100, 1, 1, 32))
    p = jnp.exp(jax.vmap(expected_fn, (None, 0))(theta, xs))
    assert (p.max(axis=1) > 0.999).sum() > 5
    found, expected = (
        fisher_vectors(fn, theta, xs, p.argmax(axis=1))["w"]
        for fn in (log_probs_fn, expected_fn)
    )
    np.testing.assert_array_equal(found, expected)


def test_offsets_do_not_change_what_the_network_computes():
    """Operation by operation, as compiled programs round where they are not fused."""

    def apply(variables, images, tap=no_tap):
        x = images.reshape(len(images), 8, 8).astype(jnp.bfloat16)
        return tap("y", jnp.tanh(tap("x", x @ variables[0]))).mean(1)

    w = jax.random.normal(jax.random.key(0), (8, 4)).astype(jnp.bfloat16)
    model = Model(lambda key: None, apply, ("x", "y"), "", (8, 8, 1), 4)
    for x in XS:
        d = descriptor(model, Variables(w), x, given(0), taps=("x", "y"))
        np.testing.assert_array_equal(d.log_probs, log_probs(model, Variables(w), x))


def test_gram_matrices_are_summed_in_float32():
    rng = np.random.default_rng(0)
    factors = Factors(*(jnp.asarray(rng.normal(size=(9, 5, n))) for n in (7, 3)))
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), factors)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    dense = [Factors(f.a[:, 0], f.d[:, 0]) for f in (narrow, wide)]
    found, expected = (
        gram({"c": c, "d": d}, {"c": c, "d": d}, has_bias=True)
        for c, d in zip((narrow, wide), dense, strict=True)
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
