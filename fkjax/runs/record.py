"""Checks of records read from files, which users may have changed."""

from collections.abc import Callable, Mapping
from typing import Any


def flaw(record: Any) -> str | None:
    """Finds the first error in a record.

    >>> flaw({"dataset": "digits", "strategy": "random", "seed": "0"})
    'seed is not a whole number'

    Args:
        record: parsed JSON. `fkjax.runs.folder` describes the fields of a record;
            other fields may have any value.

    Returns:
        A short description of the error, or None if the record is valid.
    """
    if not isinstance(record, Mapping):
        return "it is not an object"
    for field, (is_right, expected) in _FIELDS.items():
        if field not in record:
            return f"{field} is missing"
        if not is_right(record[field]):
            return f"{field} is not {expected}"
    for field, (is_right, expected) in _OPTIONAL.items():
        if field in record and not is_right(record[field]):
            return f"{field} is not {expected}"
    num_classes = len(record["class_accuracy"])
    if not num_classes:
        return "class_accuracy is empty"
    rows = [record["queried_per_class"], record["confusion"], *record["confusion"]]
    if any(len(row) != num_classes for row in rows):
        return f"its lists do not all have {num_classes} classes"
    return None


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**53  # exact as a float


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number or None, written for one not finite."""
    return value is None or (type(value) in (int, float) and abs(value) < 2**53)


def _list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_times(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(seconds) in (int, float) and 0 <= seconds < 2**53
        for seconds in value.values()
    )


_COUNT = (_is_count, "a whole number")
_NUMBER = (_is_number, "a number")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (_is_text, "text"),
    "strategy": (_is_text, "text"),
    "seed": _COUNT,
    "round": _COUNT,
    "num_labeled": _COUNT,
    "test_accuracy": _NUMBER,
    "balanced_accuracy": _NUMBER,
    "class_accuracy": (_list_of(_is_number), "a list of numbers"),
    "queried_per_class": (_list_of(_is_count), "a list of whole numbers"),
    "confusion": (_list_of(_list_of(_is_count)), "a table of whole numbers"),
    "checkpoint_selection": (_is_text, "text"),
    "num_random": _COUNT,
    "num_mistakes": (_is_whole, "a whole number"),  # -1 if not computed
    "seconds": (_is_times, "an object of seconds"),
}
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "peak_memory_mb": (_is_times, "an object of megabytes"),
    "member_accuracy": (_list_of(_is_number), "a list of numbers"),
    "held_out_accuracy": _NUMBER,
    "test_accuracy_uncorrected": _NUMBER,
    "balanced_accuracy_uncorrected": _NUMBER,
    "correction_strength": _NUMBER,
    "correction_temperature": _NUMBER,
    "validation_role": (_is_text, "text"),
    "stop": (_is_text, "text"),
}


Record = Mapping[str, Any]
"""A record of one round; see `fkjax.runs.folder`."""
