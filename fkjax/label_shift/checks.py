"""Checks of the arguments of `fkjax.label_shift`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import UserError

TINY = 1e-30  # stands for a probability that underflowed


def listed(names: Sequence[Any], at: np.ndarray) -> str:
    """Returns the names at some positions, the first five of them."""
    shown = ", ".join(str(names[int(i)]) for i in at[:5])
    return f"{shown} and {len(at) - 5} more" if len(at) > 5 else shown


def checked_names(classes: Iterable[Any]) -> list[str]:
    """Returns the classes as texts; there must be two or more."""
    names = [str(name) for name in classes]
    if len(names) < 2:
        raise UserError(f"a class balance takes two classes or more, got {len(names)}")
    return names


def checked_probabilities(probs: Any, what: str) -> np.ndarray:
    """Returns probabilities whose rows sum to one. Shape [N, C]."""
    probs = np.asarray(probs, float)
    if probs.ndim != 2 or 0 in probs.shape:
        raise UserError(
            f"the probabilities of the {what} must have a row for each of one or more "
            f"examples and a column for each class, got shape {probs.shape}"
        )
    # NaN fails both comparisons.
    is_one = (probs >= 0).all(axis=1) & (np.abs(probs.sum(axis=1) - 1) < 1e-3)
    if not is_one.all():
        row = int(np.argmin(is_one))
        raise UserError(
            f"the probabilities of each example of the {what} must be 0 or more and "
            f"sum to 1, but row {row} sums to {probs[row].sum():g}, its lowest being "
            f"{probs[row].min():g}; apply a softmax to logits"
        )
    return probs


def checked_numbers(values: Any, names: Sequence[str], what: str) -> np.ndarray:
    """Returns classes by number, each below C. Shape [N] int."""
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(
            f"the {what} must be a number for each of one or more examples, got shape "
            f"{values.shape}"
        )
    numbers = values.astype(int)
    if (numbers != values).any() or numbers.min() < 0 or numbers.max() >= len(names):
        raise UserError(
            f"the {what} must be the numbers of {len(names)} classes, 0 to "
            f"{len(names) - 1}, but go from {values.min()} to {values.max()}"
        )
    return numbers


def checked_labels(labels: Any, num: int, names: Sequence[str]) -> np.ndarray:
    """Returns labels of which every class has one. Shape [M] int."""
    labels = checked_numbers(labels, names, "labels of the validation set")
    if len(labels) != num:
        raise UserError(
            f"the validation set must have a label for each of its {num} predictions, "
            f"got {len(labels)}"
        )
    absent = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(absent):
        raise UserError(
            "the validation set must have an example of each class, but has none of "
            f"{listed(names, absent)}; add some to tell the pool's balance"
        )
    return labels
