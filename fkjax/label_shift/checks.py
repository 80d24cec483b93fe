"""Checks of the arguments of `fkjax.label_shift`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import UserError

TINY = 1e-30  # replaces probabilities that underflowed to zero


def listed(names: Sequence[Any], at: np.ndarray) -> str:
    """Returns the names at some positions as text, at most five of them."""
    shown = ", ".join(str(names[int(i)]) for i in at[:5])
    return f"{shown} and {len(at) - 5} more" if len(at) > 5 else shown


def numbers_of_labels(
    labels: Any, classes: Sequence[Any], names: Sequence[str]
) -> np.ndarray:
    """Converts labels that are names of classes to their positions.

    Labels that are numbers are positions if the names are text, and names if the names
    are numbers, as in `fkjax.select`.

    Args:
        labels: names or positions. Shape [M].
        classes: names of the classes, as given. Length C.
        names: the same as text.

    Returns:
        Positions, which are not checked if they were given. Shape [M].

    Raises:
        UserError: if a label is not a class, or labels could be names or positions of
            different classes.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0:
        return labels  # the next check refuses it
    values = labels.tolist()
    are_numbers = all(isinstance(value, (int, float)) for value in values)
    if are_numbers and all(isinstance(name, (int, float)) for name in classes):
        position = {name: y for y, name in enumerate(classes)}
        by_name = np.array([position.get(value, -1) for value in values])
    else:
        position = {name: y for y, name in enumerate(names)}
        by_name = np.array([position.get(str(value), -1) for value in values])
        if are_numbers and (by_name < 0).any():
            return labels
        if are_numbers and set(values) <= set(range(len(names))):
            if (by_name == labels).all():
                return labels
            raise UserError(
                "the labels of the validation set are numbers, and so are the names of "
                f"the classes ({listed(names, np.arange(len(names)))}), so that labels "
                "can be names or positions from 0: give names and labels both as "
                "numbers or both as text"
            )
    if (by_name < 0).any():
        at = int(np.argmin(by_name))
        raise UserError(
            f"label {at} of the validation set is {values[at]}, but the classes are "
            f"{listed(names, np.arange(len(names)))}; fix it, or give the names of the "
            "classes"
        )
    return by_name


def checked_names(classes: Iterable[Any]) -> list[str]:
    """Returns the names of two or more classes as strings."""
    names = [str(name) for name in classes]
    if len(names) < 2:
        raise UserError(f"a class balance needs two or more classes, got {len(names)}")
    return names


def checked_probabilities(probs: Any, what: str) -> np.ndarray:
    """Returns probabilities, checked to sum to one in each row. Shape [N, C]."""
    probs = np.asarray(probs, float)
    if probs.ndim != 2 or 0 in probs.shape:
        raise UserError(
            f"the probabilities of the {what} must have shape [examples, classes] and "
            f"not be empty, got shape {probs.shape}"
        )
    # NaN fails both comparisons.
    is_one = (probs >= 0).all(axis=1) & (np.abs(probs.sum(axis=1) - 1) < 1e-3)
    if not is_one.all():
        row = int(np.argmin(is_one))
        raise UserError(
            f"the probabilities of each example of the {what} must be 0 or more and "
            f"sum to 1, but row {row} sums to {probs[row].sum():g} and its minimum is "
            f"{probs[row].min():g}; apply a softmax if these are logits"
        )
    return probs


def checked_numbers(values: Any, names: Sequence[str], what: str) -> np.ndarray:
    """Returns class numbers, checked to be in 0..C-1. Shape [N] int."""
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(
            f"the {what} must have shape [examples] and not be empty, got shape "
            f"{values.shape}"
        )
    numbers = values.astype(int)
    if (numbers != values).any() or numbers.min() < 0 or numbers.max() >= len(names):
        raise UserError(
            f"the {what} must be numbers of {len(names)} classes, integers from 0 to "
            f"{len(names) - 1}, got numbers from {values.min()} to {values.max()}"
        )
    return numbers


def checked_labels(labels: Any, num: int, names: Sequence[str]) -> np.ndarray:
    """Returns labels, checked to contain every class. Shape [M] int."""
    labels = checked_numbers(labels, names, "labels of the validation set")
    if len(labels) != num:
        raise UserError(
            f"the validation set must have one label for each of its {num} "
            f"predictions, got {len(labels)} labels"
        )
    absent = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(absent):
        raise UserError(
            "the validation set must have an example of each class, but has none of "
            f"{listed(names, absent)}; add examples of these classes to it"
        )
    return labels
