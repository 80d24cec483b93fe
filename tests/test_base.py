import jax
import numpy as np

from fkjax.base import key_for


def draw(key):
    return int(jax.random.bits(key))


def test_purposes_and_numbers_give_different_keys():
    key = jax.random.key(0)
    keys = [
        key_for(key, "a"),
        key_for(key, "b"),
        key_for(key, "a", 0),
        key_for(key, "a", 1),
        key_for(key, "a", 1, 0),
        key_for(jax.random.key(1), "a"),
    ]
    assert len({draw(k) for k in keys}) == len(keys)


def test_a_key_does_not_depend_on_what_else_was_asked_for():
    key = jax.random.key(3)
    first = draw(key_for(key, "split"))
    draw(key_for(key, "another purpose"))
    assert draw(key_for(key, "split")) == first
    np.testing.assert_array_equal(
        jax.random.key_data(key_for(key, "a", 2)),
        jax.random.key_data(jax.jit(lambda i: key_for(key, "a", i))(2)),
    )
