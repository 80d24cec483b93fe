"""Input that is broken, at random and on purpose: a right result or one clear sentence.

`python -m pytest -k hostile --hypothesis-profile=thorough` tries 50 times as many
inputs; see `conftest.py`. An input that takes longer than `SECONDS` fails.
"""

import contextlib
import signal

import pytest
from hypothesis import strategies as st

from fkjax.base import UserError

SECONDS = 10


@contextlib.contextmanager
def in_time():
    """Fails what is inside if it hangs; pytest's failure is no `Exception`."""

    def fail(*_):
        pytest.fail(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(fn, *args, **options):
    """What a function returns, or None after a clear sentence."""
    try:
        with in_time():
            return fn(*args, **options)
    except UserError as error:
        assert str(error) and str(error).isprintable()
        return None


@st.composite
def damaged(draw, wholes):
    """One of some byte strings, with bytes set, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 4))):
        i = draw(st.integers(0, len(data)))
        j = i + draw(st.integers(0, 8))
        new = draw(st.one_of(st.binary(max_size=8), st.just(bytes(data[i:j]) * 2)))
        data[i:j] = new
    if draw(st.booleans()):
        return bytes(data)
    return bytes(data[: draw(st.integers(0, len(data)))])
