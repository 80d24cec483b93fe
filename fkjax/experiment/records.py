"""The records of a round, and the rules that end a run.

They serve the rounds of an experiment and those in which a person labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fkjax.experiment.config import Config
from fkjax.experiment.rounds import Arrays, Driver, RoundState
from fkjax.experiment.stopping import STOP_RULES
from fkjax.training import evaluation


def is_over(config: Config, rounds: Sequence[dict[str, Any]]) -> bool:
    """Whether these are all the rounds that a strategy and a seed will have."""
    return len(rounds) >= config.rounds or (bool(rounds) and "stop" in rounds[-1])


def held_out_accuracy(
    config: Config, driver: Driver, state: RoundState, arrays: Arrays
) -> list[float] | None:
    """On the validation set, of each seed, if a stop rule wants to know."""
    if config.stop_when == "budget":
        return None
    is_mistake = np.atleast_2d(driver.mistakes(state.variables, arrays))
    return (1 - is_mistake.mean(axis=1)).tolist()


def mark_stop(
    config: Config,
    earlier: Sequence[dict[str, Any]],
    record: dict[str, Any],
    held_out: float,
) -> None:
    """Adds the held-out accuracy to a record, and `stop` if no round follows it.

    Args:
        config: the configuration, whose stop rule looks at the accuracy.
        earlier: records of the rounds before.
        record: record of the last round, which is changed.
        held_out: accuracy on the validation set.
    """
    record["held_out_accuracy"] = held_out
    rounds = [*earlier, record]
    num_labeled = [r["num_labeled"] for r in rounds]
    accuracy = [r["held_out_accuracy"] for r in rounds]
    if STOP_RULES[config.stop_when](config.stop_rule(), num_labeled, accuracy):
        record["stop"] = config.stop_when


def measures(confusion: np.ndarray) -> dict[str, Any]:
    """Returns the accuracies in a record, of a confusion matrix of shape [C, C]."""
    by_class = evaluation.class_accuracy(confusion)
    return {
        "test_accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(np.nanmean(by_class)),
        "class_accuracy": by_class.tolist(),
    }


def member_measures(member_accuracy: np.ndarray) -> dict[str, Any]:
    """Returns the accuracies of an ensemble's members; nothing of a single model."""
    members = member_accuracy.tolist()
    return {"member_accuracy": members} if members else {}


def queried_per_class(labels: np.ndarray, num_classes: int) -> list[int]:
    """Returns how many labels of a round each class has; a label of -1 is none."""
    return np.bincount(labels[labels >= 0], minlength=num_classes).tolist()


def queries_of(
    indices: Any,
    labels: np.ndarray,
    pseudo_labels: Any,
    targets: Any,
    *,
    pool_ids: np.ndarray,
    validation_ids: np.ndarray,
) -> dict[str, Any]:
    """Returns the columns of `RunFolder.append_queries`: ids in place of positions.

    Args:
        indices: positions of the queried examples in the pool. Shape [B].
        labels: labels that the oracle gave. Shape [B].
        pseudo_labels: classes that were assumed before, or -1. Shape [B].
        targets: positions of the validation mistakes, or -1, which stays. Shape [B].
        pool_ids: dataset ids of the pool. Shape [N].
        validation_ids: dataset ids of the validation set. Shape [M].
    """
    targets = np.asarray(targets)
    return {
        "ids": pool_ids[np.asarray(indices)],
        "labels": labels,
        "pseudo_labels": np.asarray(pseudo_labels),
        "target_ids": np.where(targets < 0, -1, validation_ids[targets]),
    }
