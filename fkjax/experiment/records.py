"""The records of a round, and the rules that end a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fkjax.data import splits
from fkjax.experiment.config import Config
from fkjax.experiment.rounds import Arrays, Driver, Record, RoundState
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


def mark_stop(config: Config, rounds: Sequence[dict[str, Any]]) -> None:
    """Notes in the last record that no round follows, if that is so."""
    num_labeled = [r["num_labeled"] for r in rounds]
    accuracy = [r["held_out_accuracy"] for r in rounds]
    if STOP_RULES[config.stop_when](config.stop_rule(), num_labeled, accuracy):
        rounds[-1]["stop"] = config.stop_when


def measures(config: Config, played: Record) -> dict[str, Any]:
    """Returns what a record says of a round, beside names and numbers."""
    confusion = played.confusion
    by_class = evaluation.class_accuracy(confusion)
    members = played.member_accuracy.tolist()
    return {
        "checkpoint_selection": config.checkpoint_selection,
        "test_accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(np.nanmean(by_class)),
        "class_accuracy": by_class.tolist(),
        "queried_per_class": np.bincount(
            played.labels, minlength=len(confusion)
        ).tolist(),
        "num_random": int(np.isnan(played.query.scores).sum()),
        "num_mistakes": int(played.num_mistakes),
        "confusion": confusion.tolist(),
        **({"member_accuracy": members} if members else {}),
        "seconds": played.seconds,
        "peak_memory_mb": played.peak_memory_mb,
    }


def queries_of(played: Record, parts: splits.Splits) -> dict[str, Any]:
    """Dataset ids in place of positions; -1 stays where there is none."""
    targets = np.asarray(played.query.targets)
    return {
        "ids": parts.pool.ids[np.asarray(played.query.indices)],
        "labels": played.labels,
        "pseudo_labels": np.asarray(played.query.pseudo_labels),
        "target_ids": np.where(targets < 0, -1, parts.validation.ids[targets]),
    }
