import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fkjax.base import UserError, key_for, printable


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


@given(text=st.text())
def test_what_is_printable_is_one_line_and_nothing_is_lost(text):
    shown = printable(text)
    assert shown.isprintable() and len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
    else:
        assert len(shown) > len(text)


def test_no_file_name_can_break_the_line_of_an_error_or_drive_the_terminal():
    name = "a\nb\r\x1b[2J\x9b31m\u2028\u202e\udc80 größe\0"
    shown = r"a\nb\r\x1b[2J\x9b31m\u2028\u202e\udc80 größe\x00"
    assert str(UserError(f"{name} is damaged")) == f"{shown} is damaged"
