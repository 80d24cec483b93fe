"""The order of elements by digits, against that of numbered elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax.fisher.order import keeps_order
from fkjax.sketch import auto

SHAPES = [(24,), (6, 4), (4, 6), (2, 3, 4), (3, 8), (2, 2, 3, 2), (1, 24, 1), (12, 2)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(6, 4), (24, 1), (1, 24), (3, 8)]),
    st.lists(
        st.one_of(st.sampled_from(SHAPES), st.integers(0, 23)), min_size=1, max_size=5
    ),
)
def test_moves_keep_the_order_of_numbered_elements(shape, moves):
    def fn(x, of=jnp):
        for move in moves:
            if isinstance(move, tuple):
                x = x.reshape(move)
            else:
                x = of.transpose(x, np.random.default_rng(move).permutation(x.ndim))
        return x

    places = np.arange(24).reshape(shape)
    expected = bool((fn(places, np).ravel() == places.ravel()).all())
    found = keeps_order(fn, shape)
    assert found == expected or not found and _is_mixed(shape, moves)


def _is_mixed(shape, moves):
    """Whether a reshape after a transposition divides axes unevenly."""
    return any(isinstance(move, int) for move in moves)


def test_what_is_not_a_move_does_not_keep_the_order():
    assert not keeps_order(lambda x: x[::-1], (6, 4))
    assert not keeps_order(lambda x: x + 1, (6, 4))
    assert not keeps_order(lambda x: x[:3], (6, 4))
    assert not keeps_order(lambda x: jnp.zeros(24), (6, 4))
    assert keeps_order(lambda x: jax.jit(jnp.squeeze)(x[None]), (6, 4))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_wide_layers_of_any_precision_are_taken_as_stored(dtype):
    """Their positions are no numbers of bfloat16, nor arrays in memory."""

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax((x @ theta["w"])[:10].astype(jnp.float32))

    shapes = jax.ShapeDtypeStruct((1 << 20, 1 << 20), dtype)
    x = jax.ShapeDtypeStruct((1 << 20,), dtype)
    plan = auto(log_probs_fn, {"w": shapes}, x, rank=512)
    assert plan.sketches["w"].name == "tensor_sketch"
