"""The fields of a record, and the rules that end a run.

They are used in experiments and in labeling sessions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fkjax.base import PriorCorrection
from fkjax.experiment.config import Config
from fkjax.experiment.driver import Arrays, Driver, RoundState
from fkjax.experiment.stopping import STOP_RULES
from fkjax.training import evaluation


def is_over(config: Config, rounds: Sequence[dict[str, Any]]) -> bool:
    """Returns whether a strategy and seed with these records is finished."""
    return bool(rounds) and (
        rounds[-1]["round"] >= config.rounds or "stop" in rounds[-1]
    )


def held_out_accuracy(
    config: Config, driver: Driver, state: RoundState, arrays: Arrays
) -> list[float] | None:
    """Computes the validation accuracy of each seed, if a stop rule needs it.

    Args:
        config: settings of the run.
        driver: compiled parts of a round.
        state: state after the round.
        arrays: examples and known labels.

    Returns:
        The accuracy of each seed, or None if there is no stop rule.
    """
    if config.stop_when == "budget":
        return None
    is_mistake = np.atleast_2d(driver.mistakes(state, arrays))
    return (1 - is_mistake.mean(axis=1)).tolist()


def mark_stop(
    config: Config,
    earlier: Sequence[dict[str, Any]],
    record: dict[str, Any],
    held_out: float,
) -> None:
    """Adds the held-out accuracy to a record, and `stop` if no round follows it.

    Args:
        config: settings of the run, with a stop rule.
        earlier: records of the earlier rounds.
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
    """Computes the accuracies in a record from a confusion matrix.

    Args:
        confusion: confusion matrix, a row for each true class. Shape [C, C].
    """
    by_class = evaluation.class_accuracy(confusion)
    return {
        "test_accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(np.nanmean(by_class)),
        "class_accuracy": by_class.tolist(),
    }


def protocol_measures(
    config: Config, uncorrected: np.ndarray, correction: PriorCorrection | None
) -> dict[str, Any]:
    """Returns the fields that only the paper's protocol lacks.

    Args:
        config: settings of the run.
        uncorrected: confusion matrix of the uncorrected predictions. Shape [C, C].
        correction: correction of the deployed predictions.
    """
    if correction is None:
        return {}
    measured = measures(uncorrected)
    return {
        "test_accuracy_uncorrected": measured["test_accuracy"],
        "balanced_accuracy_uncorrected": measured["balanced_accuracy"],
        "correction_strength": float(correction.strength),
        "correction_temperature": float(correction.temperature),
        "validation_role": config.validation_role,
    }


def member_measures(member_accuracy: np.ndarray) -> dict[str, Any]:
    """Returns the field of the accuracies of an ensemble's members, if there are any.

    Args:
        member_accuracy: accuracy of each member. Shape [E], or [0] for a single model.
    """
    members = member_accuracy.tolist()
    return {"member_accuracy": members} if members else {}


def labels_per_class(labels: np.ndarray, num_classes: int) -> list[int]:
    """Counts the labels of a round by class.

    Args:
        labels: labels given by the oracle; -1 if it could not tell. Shape [B].
        num_classes: number of classes, C.
    """
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
    """Returns the arguments of `RunFolder.append_queries`, with ids for positions.

    Args:
        indices: positions of the queried examples in the pool. Shape [B].
        labels: labels given by the oracle. Shape [B].
        pseudo_labels: labels assumed by the strategy, or -1. Shape [B].
        targets: positions of the matched validation mistakes, or -1. Shape [B].
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
