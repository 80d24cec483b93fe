"""Ids of each type, and the labeled examples among them."""

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.selection.ids import checked_ids, is_unlabeled

TEXT = np.array(["a", "b", "c"])
NUMBERS = np.array([10, 11, 12])


@pytest.mark.parametrize(
    ("ids", "labeled"),
    [
        (range(3), [1]),
        (range(3), [1.0]),
        (range(3), np.array([1.0])),
        (range(3), ["1"]),
        (range(3), ["1.0"]),
        (range(3), np.array([False, True, False])),
        (TEXT, [False, True, False]),
        (TEXT, ["b"]),
        (TEXT, np.array(["b"])),
        (TEXT, [b"b"]),
        (TEXT.astype(object), ["b"]),
        (TEXT.astype(np.dtypes.StringDType()), ["b"]),
        (TEXT.astype(bytes), ["b"]),
        (NUMBERS, [11]),
        (NUMBERS, ["11"]),
        (NUMBERS, [11.0]),
        (NUMBERS.astype(float), [11]),
        (NUMBERS.astype(float), ["11"]),
        (NUMBERS.astype(float), ["11.0"]),
        (NUMBERS.astype(object), [11]),
        (np.array([0.25, 0.1, 0.5], np.float32), [np.float32(0.1)]),
        (np.array(["1.0", "2.0", "3"]), [2.0]),
    ],
)
def test_labeled_examples_are_found_whatever_the_types_are(ids, labeled):
    found = is_unlabeled(checked_ids(ids, "pool"), labeled)
    assert found.tolist() == [True, False, True]


def test_text_is_not_compared_as_numbers():
    with pytest.raises(UserError, match="did you mean 7"):
        is_unlabeled(np.array(["7", "a"]), ["007"])


@pytest.mark.parametrize(
    ("labeled", "match"),
    [
        ([1.5], "example 1.5 is not in the pool"),
        ([np.inf], "inf is not in the pool"),
        ([np.nan], "nan is not in the pool"),
        ([-1], "-1 is not in the pool"),
        ([True, False], "3 examples of the pool, got 2 values with True"),
        ([True, 1, 2], "got 3 values"),
        ("12", "must be a list of ids, got '12'"),
        (np.zeros((3, 2)), r"must be a list of ids, got shape \(3, 2\)"),
        (np.array(1), r"must be a list of ids, got shape \(\)"),
        (1, "must be a list of ids, got 1"),
        (None, "must be a list of ids, got None"),
        (["1_0"], "1_0 is not in the pool"),
    ],
)
def test_what_is_not_a_list_of_ids_is_refused(labeled, match):
    with pytest.raises(UserError, match=match):
        is_unlabeled(range(3), labeled)


@pytest.mark.parametrize(
    "ids",
    [
        np.array(["a", np.nan, "c"], object),
        np.array(["a", None, "c"], object),
        np.array([1, np.nan, 3]),
        np.array(["2026", "NaT", "2025"], "datetime64[Y]"),
    ],
)
def test_a_missing_id_is_refused(ids):
    with pytest.raises(UserError, match="id in row 1 of the pool is missing"):
        checked_ids(ids, "pool")


@pytest.mark.parametrize("ids", [["a", "b", "b"], [1.0, 2, 2], [b"a", b"b", b"b"]])
def test_an_id_that_occurs_twice_is_named(ids):
    for array in (np.array(ids), np.array(ids, object)):
        with pytest.raises(UserError, match="occurs twice: [b2]"):
            is_unlabeled(checked_ids(array, "pool"), [])
