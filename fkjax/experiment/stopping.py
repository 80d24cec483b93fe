"""Stop rules, which end a run by its accuracy on held-out examples.

The test set is never used.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Rule(NamedTuple):
    """The parameters of the stop rules.

    Attributes:
        target_accuracy: accuracy at which `target_accuracy` stops, as a fraction.
        patience: number of last rounds that `plateau` and `low_gain` consider.
        min_gain: gain below which `low_gain` stops, in percentage points per 100
            labels.
    """

    target_accuracy: float = 0.95
    patience: int = 3
    min_gain: float = 0.5


Stop = Callable[[Rule, Sequence[int], Sequence[float]], bool]
"""A function `stop(rule, num_labeled, accuracy)` that returns whether to stop after R
rounds, given the number of labels and the held-out accuracy after each. Shapes [R]."""


def budget(rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]) -> bool:
    """Runs all rounds: this rule never stops."""
    del rule, num_labeled, accuracy
    return False


def target_accuracy(
    rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]
) -> bool:
    """Stops when the accuracy of the last round reaches the target.

    >>> target_accuracy(Rule(target_accuracy=0.9), [125, 250], [0.7, 0.9])
    True
    """
    del num_labeled
    return accuracy[-1] >= rule.target_accuracy


def plateau(rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]) -> bool:
    """Stops when no round of the last `patience` is better than the best before.

    >>> plateau(Rule(patience=2), [10, 20, 30, 40], [0.5, 0.8, 0.8, 0.7])
    True
    >>> plateau(Rule(patience=2), [10, 20, 30, 40], [0.5, 0.8, 0.7, 0.9])
    False
    """
    del num_labeled
    last, before = accuracy[-rule.patience :], accuracy[: -rule.patience]
    return bool(before) and max(last) <= max(before)


def low_gain(rule: Rule, num_labeled: Sequence[int], accuracy: Sequence[float]) -> bool:
    """Stops when the last `patience` rounds gain less than `min_gain` per 100 labels.

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
"""The stop rules by the names that `--stop-when` takes."""
