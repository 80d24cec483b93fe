"""Names of classes, and labels that are names or positions."""

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.selection.class_names import class_names, class_numbers, given_classes

NAN = float("nan")


def numbers(labels, classes, num_classes=3):
    given = given_classes(classes)
    names = class_names(given, num_classes)
    return class_numbers(np.asarray(labels), names, given).tolist()


def test_names_match_in_another_unicode_form():
    forms = ["caf\u00e9", "cafe\u0301"]
    for classes, labels in (forms, reversed(forms)), (reversed(forms), forms):
        classes, labels = [*classes][:1], [*labels][:1]
        assert numbers(["a", *labels, "b"], ["b", *classes, "a"]) == [2, 1, 0]
    with pytest.raises(UserError, match="as many different names"):
        numbers(["a"], [*forms, "a"])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 0, 2], None),
        (np.array([1.0, 0, 2]), None),
        (np.array([1, 0, 2], object), None),
        (["1", "0", "2"], None),
        ([1, 0, 2], ["a", "b", "c"]),
        (["b", "a", "c"], ["a", "b", "c"]),
        ([b"b", b"a", b"c"], ["a", "b", "c"]),
        (np.array(["b", "a", "c"], np.dtypes.StringDType()), ["a", "b", "c"]),
        # Names that are numbers are names.
        ([2, 1, 3], [1, 2, 3]),
        ([1, 2, 0], np.array([2, 1, 0])),
        ([2.0, 1.0, 3.0], [1, 2, 3]),
        ([2, 1, 3], np.array([1.0, 2.0, 3.0])),
        (["2", "1", "3"], [1, 2, 3]),
        # Only one reading is possible, or both are the same.
        ([2, 1, 3], ["1", "2", "3"]),
        ([1, 0, 2], ["1", "2", "3"]),
        ([1, 0, 2], ["0", "1", "2"]),
        ([1, 0, 2], ["01", "10", "c"]),
        ([1, 0, 2], {0: "a", 1: "b", 2: "c"}),
        (["b", "a", "c"], {"a": 0, "b": 1, "c": 2}),
    ],
)
def test_labels_are_read_as_they_are_meant(labels, classes):
    assert numbers(labels, classes) == [1, 0, 2]


def test_false_and_true_are_two_classes():
    labels = np.array([True, False])
    for classes in (None, [False, True], np.array([False, True]), ["False", "True"]):
        assert numbers(labels, classes, 2) == [1, 0]
    with pytest.raises(UserError, match="label 0 is True"):
        numbers(labels, ["cat", "dog"], 2)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 2], ["1", "2", "3"]),
        ([1, 2], ["01", "02", "03"]),
        ([1.0, 2.0], ["3", "2", "1"]),
    ],
)
def test_labels_that_may_be_names_or_positions_are_refused(labels, classes):
    with pytest.raises(UserError, match="names or positions from 0: if .* as text"):
        numbers(labels, classes)
    as_text = [classes[int(np.flatnonzero(np.array(classes, int) == x)[0])]
               for x in labels]  # fmt: skip
    assert numbers(as_text, classes) == [classes.index(x) for x in as_text]


@pytest.mark.parametrize(
    ("labels", "classes", "match"),
    [
        ([0, 1, 2], [1, 2, 3], "label 0 is 0, .* are 1, 2, 3; the names are numbers"),
        ([0.5], None, "label 0 is 0.5"),
        ([0, NAN], None, "label 1 is missing"),
        (np.array(["a", None], object), "abc", "label 1 is missing"),
        ([[1, 0, 0]], None, r"got \(1, 3\); give one class"),
        ([0], 3, "classes must be a list of names, .* got 3"),
        ([0], {"a", "b", "c"}, "classes must be a list of names"),
        ([0], np.eye(3), "classes must be a list of names"),
        ([0], [1, 1.0, 2], "as many different names"),
        ([0], {0: 1, 1: 0, 2: 2}, "in a dict must be names by position"),
        ([0], {"a": 1, "b": 2, "c": 3}, "in a dict must be names by position"),
    ],
)
def test_what_is_not_a_class_is_refused(labels, classes, match):
    with pytest.raises(UserError, match=match):
        numbers(labels, classes)
