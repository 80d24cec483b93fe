"""What a record of a round must hold, for files that a hand may have changed."""

from collections.abc import Callable, Mapping
from typing import Any


def flaw(record: Any) -> str | None:
    """Says what is wrong with a record.

    >>> flaw({"dataset": "digits", "strategy": "random", "seed": "0"})
    'seed is no whole number'

    Args:
        record: what JSON held; see `fkjax.runs.folder` for what it must be. Fields that
            are not named there may be anything.

    Returns:
        A few words, or None if nothing is.
    """
    if not isinstance(record, Mapping):
        return "it is no object"
    for field, (is_right, expected) in _FIELDS.items():
        if field not in record:
            return f"{field} is missing"
        if not is_right(record[field]):
            return f"{field} is no {expected}"
    for field, (is_right, expected) in _OPTIONAL.items():
        if field in record and not is_right(record[field]):
            return f"{field} is no {expected}"
    num_classes = len(record["class_accuracy"])
    if not num_classes:
        return "class_accuracy is of no class"
    rows = [record["queried_per_class"], record["confusion"], *record["confusion"]]
    if any(len(row) != num_classes for row in rows):
        return f"not all of its lists are of the {num_classes} classes"
    return None


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**53  # which a float holds


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_number(value: Any) -> bool:
    """None stands where a number was not finite."""
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


_COUNT = (_is_count, "whole number")
_NUMBER = (_is_number, "number")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (_is_text, "text"),
    "strategy": (_is_text, "text"),
    "seed": _COUNT,
    "round": _COUNT,
    "num_labeled": _COUNT,
    "test_accuracy": _NUMBER,
    "balanced_accuracy": _NUMBER,
    "class_accuracy": (_list_of(_is_number), "list of numbers"),
    "queried_per_class": (_list_of(_is_count), "list of whole numbers"),
    "confusion": (_list_of(_list_of(_is_count)), "table of whole numbers"),
    "checkpoint_selection": (_is_text, "text"),
    "num_random": _COUNT,
    "num_mistakes": (_is_whole, "whole number"),  # -1 where nobody looked
    "seconds": (_is_times, "object of seconds"),
}
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "peak_memory_mb": (_is_times, "object of megabytes"),
    "member_accuracy": (_list_of(_is_number), "list of numbers"),
    "held_out_accuracy": _NUMBER,
    "stop": (_is_text, "text"),
}


Record = Mapping[str, Any]
