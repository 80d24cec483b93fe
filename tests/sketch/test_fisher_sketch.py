"""`fisher_sketch`: a plan, its projection and `embed` in one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fkjax
from fkjax.sketch import auto, embed, gaussian, predicted, project


def test_a_fisher_sketch_is_the_plan_the_projection_and_embed():
    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(jnp.tanh(x @ theta["a"]) @ theta["b"])

    keys = jax.random.split(jax.random.key(0), 3)
    theta = {
        "a": jax.random.normal(keys[0], (30, 20)),
        "b": jax.random.normal(keys[1], (20, 5)),
    }
    xs = jax.random.normal(keys[2], (7, 30))
    init, apply, plan = fkjax.fisher_sketch(log_probs_fn, theta, xs[0], rank=32)
    assert str(plan) == str(auto(log_probs_fn, theta, xs[0], rank=32))
    projection = project(plan.sketches)
    state = projection.init(jax.random.key(1), theta)
    labels = jnp.arange(7) % 5
    for given in ((), (labels,)):
        rule = given or (predicted,)
        wanted = embed(log_probs_fn, theta, xs, *rule, projection, state)
        made = jax.jit(apply)(init(jax.random.key(1)), theta, xs, *given)
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)


def test_a_fisher_sketch_takes_other_sketches_for_some_leaves():
    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(x @ theta["w"])

    theta, x = {"w": jnp.zeros((30, 5))}, jnp.ones(30)
    made = fkjax.fisher_sketch(
        log_probs_fn, theta, x, rank=8, sketches={"w": gaussian(rank=8)}
    )
    assert made.plan.sketches["w"].name == "gaussian"
    with pytest.raises(ValueError, match="no leaf"):
        fkjax.fisher_sketch(log_probs_fn, theta, x, sketches={"v": gaussian(rank=8)})
