"""Checks of the settings of a run."""

import dataclasses

import pytest

from fkjax.base import UserError
from fkjax.experiment import presets
from fkjax.experiment.checks import check
from fkjax.experiment.config import Config


def test_a_dataset_is_not_labeled_by_a_person():
    with pytest.raises(UserError, match="dataset must be 'images'"):
        check(
            dataclasses.replace(
                presets.image_defaults(),
                dataset="mnist",
                images="d",
                labels="l",
                output_dir="o",
            )
        )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[
            ({field: bad}, f"--{field.replace('_', '-')} must be 1 or more, got {bad}$")
            for field in (
                "seeds",
                "rounds",
                "budget",
                "epochs",
                "pretraining_epochs",
                "batch_size",
                "passes",
                "vaal_steps",
                "validation_size",
            )
            for bad in (0, -3)
        ],
        ({"seed": -1}, "--seed must be a number from 0 to 2147483647, got -1$"),
        ({"seed": 2**31}, "--seed must be .*, got 2147483648$"),
        ({"tuning_size": -1}, "--tuning-size must be 0 or more, got -1$"),
        ({"image_size": 3}, "--image-size must be a number from 4 to 4096, got 3$"),
        ({"image_size": 4097}, "--image-size must be .*, got 4097$"),
        ({"label_noise": -0.1}, "--label-noise must be a probability from 0 to 1"),
        ({"label_noise": 1.1}, "--label-noise must be .*, got 1.1$"),
        ({"label_noise": NAN}, "--label-noise must be .*, got nan$"),
        ({"imbalance_ratio": 0.5}, "--imbalance-ratio must be a finite number, 1 or"),
        ({"imbalance_ratio": INF}, "--imbalance-ratio must be .*, got inf$"),
        ({"imbalance_ratio": NAN}, "--imbalance-ratio must be .*, got nan$"),
        ({"learning_rate": 0.0}, "--learning-rate must be a finite number above 0"),
        ({"learning_rate": INF}, "--learning-rate must be .*, got inf$"),
        ({"learning_rate": NAN}, "--learning-rate must be .*, got nan$"),
        ({"momentum": 1.0}, "--momentum must be a number from 0 to below 1, got 1.0$"),
        ({"momentum": -0.1}, "--momentum must be .*, got -0.1$"),
        ({"momentum": NAN}, "--momentum must be .*, got nan$"),
        (
            {"conv_dropout": 1.0},
            "--conv-dropout must be a fraction from 0 to 0.99, got",
        ),
        ({"dense_dropout": -0.5}, "--dense-dropout must be .*, got -0.5$"),
        ({"strategies": ()}, "--strategies takes one or more names"),
        ({"strategies": ("random", "random")}, "different names, got 'random random'"),
        ({"strategies": ("fisher_nearst",)}, "strategy 'fisher_nearst' .did you mean "),
        ({"taps": ()}, "--taps takes one or more different names, got ''$"),
        ({"taps": ("fc1", "fc1")}, "--taps takes .* got 'fc1 fc1'$"),
        ({"checkpoint_selection": "tuning"}, "--tuning-size is 0: set it"),
    ],
)
def test_refusals_name_the_flag_and_what_it_takes(changes, message):
    with pytest.raises(UserError, match=message) as error:
        check(dataclasses.replace(Config(), **changes))
    text = str(error.value)
    assert "\n" not in text and not text.endswith(".")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2**31 - 1, "seeds": 1},
        {"label_noise": 1.0},
        {"image_size": 4},
        {"image_size": 4096},
        {"imbalance_ratio": 1.0},
        {"momentum": 0.0},
        {"checkpoint_selection": "test"},
        {"checkpoint_selection": "tuning", "tuning_size": 10},
        {"rounds": 1, "budget": 1, "epochs": 1, "batch_size": 1},
    ],
)
def test_the_ends_of_the_ranges_are_accepted(changes):
    check(dataclasses.replace(Config(), **changes))
