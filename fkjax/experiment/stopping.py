"""When to stop buying labels, by what is held out: never by the test set."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Rule(NamedTuple):
    """What a stop rule is told.

    Attributes:
        target_accuracy: a fraction.
        patience: rounds that the last two rules look back.
        min_gain: points of accuracy (hundredths) for each 100 labels.
    """

    target_accuracy: float = 0.95
    patience: int = 3
    min_gain: float = 0.5


Stop = Callable[[Rule, Sequence[int], Sequence[float]], bool]
"""`stop(rule, num_labeled, accuracy)`: whether to stop after these rounds, given the
labels after each and the accuracy on what is held out. Shapes [R]."""


def budget(rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]) -> bool:
    """Never: all rounds are played."""
    del rule, num_labeled, accuracy
    return False


def target_accuracy(
    rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]
) -> bool:
    """When the last round's accuracy is the target or more.

    >>> target_accuracy(Rule(target_accuracy=0.9), [125, 250], [0.7, 0.9])
    True
    """
    del num_labeled
    return accuracy[-1] >= rule.target_accuracy


def plateau(rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]) -> bool:
    """When none of the last `patience` rounds is better than the best one before.

    >>> plateau(Rule(patience=2), [10, 20, 30, 40], [0.5, 0.8, 0.8, 0.7])
    True
    >>> plateau(Rule(patience=2), [10, 20, 30, 40], [0.5, 0.8, 0.7, 0.9])
    False
    """
    del num_labeled
    last, before = accuracy[-rule.patience :], accuracy[: -rule.patience]
    return bool(before) and max(last) <= max(before)


def low_gain(rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]) -> bool:
    """When `patience` rounds have gained less than `min_gain` for each 100 labels.

    >>> low_gain(Rule(patience=1, min_gain=0.5), [100, 300], [0.900, 0.909])
    True
    """
    if len(accuracy) <= rule.patience:
        return False
    gain = 100 * (accuracy[-1] - accuracy[-1 - rule.patience])
    bought = num_labeled[-1] - num_labeled[-1 - rule.patience]
    return gain < rule.min_gain * bought / 100


STOP_RULES: dict[str, Stop] = {
    "budget": budget,
    "plateau": plateau,
    "target-accuracy": target_accuracy,
    "low-gain": low_gain,
}
"""By the names that the command knows them by."""
