"""Tests every strategy with a residual network."""

import jax
import jax.numpy as jnp
import pytest

from fkjax.acquisition import STRATEGIES, Settings, access, make_strategy
from fkjax.base import View
from fkjax.models import MODELS
from tests.acquisition.outputs import GREEDY

BUDGET = 8
# Of those that share one query, one is enough.
EACH = [name for name in STRATEGIES if name not in GREEDY[1:]]


@pytest.mark.parametrize("name", EACH)
def test_every_strategy_works_on_a_residual_network(name):
    """The strategy is only traced, which is enough to find what the model lacks."""
    architecture = MODELS["resnet10"]
    model = architecture.make(
        (32, 32, 3),
        5,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        conv_dropout=architecture.conv_dropout,
        dense_dropout=architecture.dense_dropout,
    )
    made = make_strategy(
        STRATEGIES[name], model, Settings(taps=architecture.taps, budget=BUDGET)
    )
    images = jax.ShapeDtypeStruct((20, 32, 32, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((20,), jnp.int32)
    is_so = jax.ShapeDtypeStruct((20,), bool)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    view = View(variables, images, is_so, images, labels, is_so, labels)
    kept = access.restrict(view, made, hidden_labels=lambda: labels)
    query = jax.eval_shape(made.query, jax.random.key(0), kept)
    assert all(part.shape == (BUDGET,) for part in query[:4])
