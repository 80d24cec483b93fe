"""Values of NumPy, pandas and JAX as plain Python values."""

import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.selection.arguments import is_missing, plain, whole


@pytest.mark.parametrize(
    "value",
    [3, 3.0, np.int8(3), np.uint64(3), np.float32(3), np.array(3), jnp.asarray(3)],
)
def test_whole_numbers_of_any_type_are_integers(value):
    found = whole(value, "budget")
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    "value", [2.5, np.nan, np.inf, True, None, "3", b"3", [3], np.array([3]), 3j]
)
def test_other_values_are_refused(value):
    with pytest.raises(UserError, match="the budget must be an integer, got"):
        whole(value, "budget")


def test_missing_values_and_plain_ones():
    missing = [None, np.nan, float("nan"), np.datetime64("NaT"), np.float32("nan")]
    assert all(map(is_missing, missing))
    assert not any(map(is_missing, [0, "", "nan", 1.5, False]))
    assert [plain(v) for v in (np.int8(1), b"caf\xc3\xa9", "x")] == [1, "café", "x"]
