"""Flags of JAX that its user may have set, and that computations here must not see."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def usual_flags() -> Iterator[None]:
    """Sets the flags of JAX that stop computations for what is no error here.

    Scores of NaN have a meaning, and all other NaN and infinities are reported with the
    ids of the examples. Optax and the code here combine integers with floats.
    """
    with (
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield
