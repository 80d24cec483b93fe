"""Stop rules on hand-made curves, and the checks of their settings."""

import pytest

import fkjax.commands.run
from fkjax.experiment.stopping import STOP_RULES, Rule

LABELS = [100, 200, 300, 400, 500]
CURVE = [0.50, 0.80, 0.90, 0.90, 0.899]


def first_stop(name, rule, accuracy=CURVE, labels=LABELS):
    """Returns the number of rounds after which a run stops, or None."""
    for number in range(1, len(accuracy) + 1):
        if STOP_RULES[name](rule, labels[:number], accuracy[:number]):
            return number
    return None


@pytest.mark.parametrize(
    ("name", "rule", "expected"),
    [
        ("budget", Rule(0.0, 1, 100.0), None),
        ("target-accuracy", Rule(target_accuracy=0.8), 2),
        ("target-accuracy", Rule(target_accuracy=0.91), None),
        ("plateau", Rule(patience=1), 4),
        ("plateau", Rule(patience=2), 5),
        ("plateau", Rule(patience=3), None),
        ("low-gain", Rule(patience=1, min_gain=5.0), 4),
        ("low-gain", Rule(patience=1, min_gain=15.0), 3),
        ("low-gain", Rule(patience=2, min_gain=5.1), 4),
        ("low-gain", Rule(patience=4, min_gain=9.0), None),
        ("low-gain", Rule(patience=1, min_gain=0.0), 5),
    ],
)
def test_a_rule_stops_after_its_round(name, rule, expected):
    assert first_stop(name, rule) == expected


def test_gain_counts_by_label_and_not_by_round():
    rule = Rule(patience=1, min_gain=1.0)
    assert first_stop("low-gain", rule, [0.5, 0.52], [100, 200]) is None
    assert first_stop("low-gain", rule, [0.5, 0.52], [100, 1100]) == 2


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ("--target-accuracy 95", "--target-accuracy must be an accuracy from 0 to 1"),
        ("--patience 0", "--patience must be 1 or more"),
        ("--min-gain nan", "--min-gain must be a finite number"),
    ],
)
def test_what_cannot_be_is_refused(argv, part, capsys):
    assert fkjax.commands.run.main(argv.split()) == 2
    assert part in capsys.readouterr().err
