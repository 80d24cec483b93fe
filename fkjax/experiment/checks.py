"""Checks of the settings of a run before anything is computed."""

import math
from collections.abc import Callable
from typing import Any

from fkjax.acquisition import ORACLES, STRATEGIES
from fkjax.base import UserError, check_name
from fkjax.experiment.config import Config
from fkjax.models import MODELS


def check(config: Config) -> None:
    """Checks the settings that do not depend on the dataset.

    Args:
        config: settings of the run.

    Raises:
        UserError: if a setting is invalid; the message gives its flag, its value and
            the values that it takes.
    """
    check_name(config.model, MODELS, "model")
    for name in config.strategies:
        check_name(name, STRATEGIES, "strategy")
    if not config.strategies:
        raise UserError("--strategies takes one or more names, such as fisher_nearest")
    if len(set(config.strategies)) < len(config.strategies):
        raise UserError(
            "--strategies takes different names, got "
            f"{' '.join(config.strategies)!r}: give each once"
        )
    if not config.taps or len(set(config.taps)) < len(config.taps):
        raise UserError(
            f"--taps takes one or more different names, got {' '.join(config.taps)!r}"
        )
    counts = "seeds rounds budget ensemble passes copies vaal_steps batch_size".split()
    counts += "epochs pretraining_epochs decay_every pretraining_decay_every".split()
    counts += ["patience"]
    for flag in (*counts, "validation_size"):
        _require(config, flag, "1 or more", lambda x: x >= 1)
        most = {"seeds": 10_000, "ensemble": 1_000}.get(flag, 2**31 - 1)
        _require(config, flag, f"{most} or less", lambda x, most=most: x <= most)
    _require(config, "seed", "a number from 0 to 2147483647", lambda x: 0 <= x < 2**31)
    if config.seed + config.seeds > 2**31:
        raise UserError(
            f"--seed {config.seed} and --seeds {config.seeds} exceed the last seed, "
            "2147483647: lower one of them"
        )
    _require(config, "tuning_size", "0 or more", lambda x: 0 <= x < 2**31)
    _require(config, "image_size", "a number from 4 to 4096", lambda x: 4 <= x <= 4096)
    _require(config, "label_noise", "a probability from 0 to 1", lambda x: 0 <= x <= 1)
    _require(
        config,
        "imbalance_ratio",
        "a finite number, 1 or more",
        lambda x: math.isfinite(x) and x >= 1,
    )
    _require(
        config,
        "learning_rate",
        "a finite number above 0",
        lambda x: math.isfinite(x) and x > 0,
    )
    _require(
        config, "target_accuracy", "an accuracy from 0 to 1", lambda x: 0 <= x <= 1
    )
    _require(
        config,
        "min_gain",
        "a finite number, 0 or more",
        lambda x: math.isfinite(x) and x >= 0,
    )
    _require(config, "random_share", "a fraction from 0 to 1", lambda x: 0 <= x <= 1)
    _require(
        config,
        "weight_decay",
        "a finite number, 0 or more",
        lambda x: math.isfinite(x) and x >= 0,
    )
    for flag in ("conv_dropout", "dense_dropout"):
        _require(config, flag, "a fraction from 0 to 0.99", lambda x: 0 <= x <= 0.99)
    _require(config, "momentum", "a number from 0 to below 1", lambda x: 0 <= x < 1)
    _check_oracle(config)
    if config.checkpoint_selection == "tuning" and config.tuning_size == 0:
        raise UserError(
            "--checkpoint-selection tuning needs images to select on, but "
            "--tuning-size is 0: set it, for example to a tenth of --validation-size"
        )


_ONLY_VALUE: dict[str, Any] = {
    "preset": "none",
    "dataset": "images",
    "seeds": 1,
    "label_noise": 0.0,
    "checkpoint_selection": "last",
    "distributed": False,
    "overwrite": False,
}
"""The only value of each setting that is possible if a person labels."""


def _check_oracle(config: Config) -> None:
    if config.oracle == "dataset":
        for field in ("images", "labels", "new_classes", "keep_copies"):
            if getattr(config, field):
                raise UserError(
                    f"{field} is only used if a person labels (fkjax label): leave it "
                    "out"
                )
        return
    for flag in ("images", "labels", "output_dir"):
        if not getattr(config, flag):
            raise UserError(
                "fkjax label needs --images DIR, --labels FILE and --output-dir DIR, "
                f"but --{flag.replace('_', '-')} is missing: add it"
            )
    for field, value in _ONLY_VALUE.items():
        if getattr(config, field) != value:
            raise UserError(
                f"{field} must be {value!r} where a person labels one pool once, got "
                f"{getattr(config, field)!r}"
            )
    if len(config.strategies) > 1 or ORACLES & set(config.strategies):
        raise UserError(
            "--strategy takes one strategy other than "
            f"{' and '.join(sorted(ORACLES, reverse=True))}, which use hidden labels, "
            f"got {' '.join(config.strategies)!r}"
        )


def _require(
    config: Config, field: str, expected: str, is_right: Callable[[Any], bool]
) -> None:
    value = getattr(config, field)
    if not is_right(value):
        flag = "--" + field.replace("_", "-")
        raise UserError(f"{flag} must be {expected}, got {value}")
