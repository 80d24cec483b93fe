import math

import pytest

from fkjax.runs.record import flaw
from tests.records import record


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"num_mistakes": -1},
        {"class_accuracy": [0.5, None, 1]},
        {"test_accuracy": None},
        {"something": "else"},
        {"member_accuracy": [0.5]},
    ],
)
def test_what_a_run_writes_has_no_flaw(extra):
    assert flaw(record(**extra)) is None


@pytest.mark.parametrize("field", record())
def test_every_field_is_needed_and_must_be_of_its_kind(field):
    lacking = record()
    del lacking[field]
    assert flaw(lacking) == f"{field} is missing"
    for value in (True, {"a": "b"}, [["a"]], b"", 3j):
        assert flaw(record() | {field: value}).startswith(f"{field} is not ")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1.5},
        {"seed": -1},
        {"round": 2**53},
        {"test_accuracy": math.nan},
        {"test_accuracy": 10**400},
        {"balanced_accuracy": math.inf},
        {"seconds": {"query": None}},
        {"class_accuracy": [0.5, 0.5]},
        {"queried_per_class": [1, 1, 1, 1]},
        {"confusion": [[1, 2, 3], [1, 2, 3]]},
        {"confusion": [[1, 2, 3], [1, 2, 3], [1, 2]]},
        {"confusion": [[1, 2, 3], [1, 2, 3], [1, 2, -3]]},
        {"class_accuracy": [], "queried_per_class": [], "confusion": []},
    ],
)
def test_impossible_values_are_told(changes):
    assert flaw(record() | changes)


@pytest.mark.parametrize("what", [None, 3, "text", [], [record()]])
def test_only_an_object_is_a_record(what):
    assert flaw(what) == "it is not an object"
