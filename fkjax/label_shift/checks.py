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
