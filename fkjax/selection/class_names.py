"""Names of classes, and labels that are names or numbers of classes."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.data.column_types import as_text
from fkjax.files.matching import composed
from fkjax.selection.arguments import is_missing, plain, whole_or_none


def given_classes(classes: Any) -> list[Any] | None:
    """Returns the classes as a list, in the order of the logits; None if not given.

    Args:
        classes: sequence of names; or a dict from positions to names, or from names to
            positions.

    Raises:
        UserError: if it is neither.
    """
    if classes is None:
        return None
    if isinstance(classes, Mapping):
        positions = list(range(len(classes)))
        of_keys = {whole_or_none(key): name for key, name in classes.items()}
        of_values = {whole_or_none(number): key for key, number in classes.items()}
        fitting = [d for d in (of_keys, of_values) if set(d) == set(positions)]
        if len(fitting) != 1:
            raise UserError(
                "classes in a dict must be names by position, from 0, or positions by "
                f"name, got {dict(classes)!r:.100}; give a list of names"
            )
        classes = [fitting[0][i] for i in positions]
    is_ordered = isinstance(classes, Iterable) and not isinstance(classes, Set)
    names = [plain(name) for name in classes] if is_ordered else []
    if not is_ordered or any(isinstance(n, (list, tuple, np.ndarray)) for n in names):
        raise UserError(
            "classes must be a list of names, in the order of the logits, got "
            f"{str(classes):.100}"
        )
    return names


def class_names(classes: Sequence[Any] | None, num_classes: int) -> list[str]:
    """Returns the names of the classes as text; their numbers if none are given.

    Args:
        classes: names from `given_classes`.
        num_classes: number of classes of the network, C.

    Raises:
        UserError: if they are not C or more different names.
    """
    names = [as_text(c) for c in (range(num_classes) if classes is None else classes)]
    num_values = len(set(map(composed, names)))
    if classes is not None and all(map(_is_number, classes)):
        num_values = len(set(classes))  # 1 and 1.0 are the same
    if len(names) < num_classes or num_values < len(names):
        raise UserError(
            f"the network has {num_classes} classes and needs as many different names, "
            f"got {len(names)} ({', '.join(names[:10])})"
        )
    return names


def class_numbers(
    labels: np.ndarray, names: Sequence[str], classes: Sequence[Any] | None
) -> np.ndarray:
    """Converts labels, names or numbers of classes, to numbers.

    Names are compared in the same Unicode normal form.

    Labels that are numbers are the numbers of the classes, from 0, if the names are
    text, and are names if the names are numbers, too, such as `classes_` of
    scikit-learn.

    Args:
        labels: names or numbers. Shape [M].
        names: names of the classes as text. Length C.
        classes: names of the classes as given by the user, or None.

    Returns:
        The numbers of the classes. Shape [M] int32.

    Raises:
        UserError: if there are no labels, a label is not a class, or labels could be
            names or numbers of different classes.
    """
    given = plain_labels(labels)
    if not all(map(_is_number, given)):
        number = {composed(name): i for i, name in enumerate(names)}
        found, advice = [number.get(composed(str(label)), -1) for label in given], ""
    elif classes is None:
        found, advice = _positions(given, len(names)), ""
    elif all(map(_is_number, classes)):
        number = {name: i for i, name in enumerate(classes)}
        found = [number.get(label, -1) for label in given]
        advice = "the names are numbers, so that labels are names, not positions"
    else:
        found, advice = _names_or_positions(given, names), ""
    if -1 in found:
        bad = found.index(-1)
        raise unknown_label(bad, given[bad], names, advice)
    return np.array(found, np.int32)


def plain_labels(labels: np.ndarray) -> list[Any]:
    """Returns labels as Python objects.

    Args:
        labels: names or numbers. Shape [M].

    Raises:
        UserError: if there are no labels, or one is missing.
    """
    if labels.ndim != 1 or len(labels) == 0:
        raise UserError(
            f"validation labels must have shape [examples], got {labels.shape}; give "
            "one class for each example"
        )
    given = [plain(label) for label in labels.tolist()]
    for i, label in enumerate(given):
        if is_missing(label):
            raise UserError(
                f"validation label {i} is missing ({label}): fill it, or leave the "
                "example out"
            )
    return given


def unknown_label(
    position: int, label: Any, names: Sequence[str], advice: str
) -> UserError:
    """Returns the error that a label is not a class.

    Args:
        position: position of the label in the validation set.
        label: the label.
        names: names of the classes.
        advice: further part of the message; may be empty.
    """
    return UserError(
        f"validation label {position} is {label!s:.100}, but the classes, in the order "
        f"of the logits, are {', '.join(names[:10])}"
        f"{', ...' if len(names) > 10 else ''}{advice and f'; {advice}'}: fix it, or "
        "give the names of all classes, those of the logits first"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))  # True and False, too


def _positions(labels: Sequence[Any], num_classes: int) -> list[int]:
    """Returns labels as positions; -1 for what is not a position."""
    # Of two classes, False and True are the first and the second.
    plain_numbers = [
        int(x) if isinstance(x, bool) and num_classes == 2 else whole_or_none(x)
        for x in labels
    ]
    return [-1 if i is None or not 0 <= i < num_classes else i for i in plain_numbers]


def _names_or_positions(labels: Sequence[Any], names: Sequence[str]) -> list[int]:
    """Returns labels that are numbers as positions, if the names are text.

    Names that are the text of a number, such as those from a command line, can be meant
    by the labels, too.
    """
    number: dict[Any, int] = {}
    for i, name in enumerate(names):
        whole = whole_or_none(name)
        if whole is not None:
            number.setdefault(whole, i)
    number |= {name: i for i, name in enumerate(names)}
    by_name = [
        number.get(str(x), -1 if isinstance(x, bool) else number.get(x, -1))
        for x in labels
    ]
    by_position = [
        -1 if isinstance(x, bool) else i
        for x, i in zip(labels, _positions(labels, len(names)), strict=True)
    ]
    if -1 in by_name:
        return by_position
    if -1 in by_position or by_name == by_position:
        return by_name
    raise UserError(
        "the validation labels are numbers, and so are the names of the classes "
        f"({', '.join(names[:10])}{', ...' if len(names) > 10 else ''}), so that the "
        "labels can be names or positions from 0: if they are names, save them as text "
        "or give the names as numbers; if they are positions, leave the names out"
    )
