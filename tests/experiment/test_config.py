"""The settings, their flags, defaults and checks."""

import contextlib
import dataclasses
import io

import pytest

from fkjax.acquisition import STRATEGIES
from fkjax.base import UserError, check_name
from fkjax.commands.run import parse
from fkjax.experiment.config import Config
from fkjax.experiment.presets import defaults
from fkjax.experiment.resuming import LABELING_SETTINGS
from fkjax.training.fit import Schedule


def test_schedules_follow_the_flags():
    chosen = parse(
        "--epochs 3 --pretraining-epochs 2 --batch-size 7 --learning-rate 0.1 "
        "--momentum 0.9".split()
    )
    assert chosen.training() == Schedule(3, 7, 0.1, 0.9, 0.0, 15)
    assert chosen.rotation_pretraining() == Schedule(2, 7, 0.1, 0.9, 0.0, 3)


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        ([], "dataset", "digits"),
        (["--dataset", "mnist"], "budget", 125),
        (["--dataset=mnist"], "budget", 125),
        (["--dataset", "digits"], "budget", 10),
        (["--dataset", "mnist", "--budget", "3"], "budget", 3),
        (["--budget", "3", "--dataset", "mnist"], "rounds", 10),
        (["--strategies", "random", "feature_match"], "strategies", None),
        (["--rare-classes", "1", "2"], "rare_classes", (1, 2)),
        (["--taps", "logits"], "taps", ("logits",)),
        (["--imbalance", "long_tail"], "imbalance", "long_tail"),
        (["--label-noise", "0.2"], "label_noise", 0.2),
        (["--output-dir", "a b"], "output_dir", "a b"),
    ],
)
def test_flags_are_read(argv, field, value):
    value = ("random", "feature_match") if value is None else value
    assert getattr(parse(argv), field) == value


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("randon", "random"), ("fisher_nearst", "fisher_nearest"), ("xyzzy", None)],
)
def test_the_nearest_name_is_offered_with_all_known_ones(name, nearest):
    known = ["random", "feature_match", "fisher_nearest"]
    with pytest.raises(UserError) as error:
        check_name(name, iter(known), "strategy")
    text = str(error.value)
    assert text.startswith(f"unknown strategy {name!r}")
    assert text.endswith(f"; expected one of {', '.join(known)}")
    assert ("did you mean" in text) == (nearest is not None)
    assert nearest is None or f" (did you mean {nearest!r}?);" in text
    check_name("random", known, "strategy")


@pytest.fixture(scope="module")
def helps():
    """The output of --help for a dataset, without its box and line breaks."""

    def capture(*argv):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            with pytest.raises(SystemExit) as end:
                parse([*argv, "--help"])
        assert end.value.code == 0
        return " ".join(out.getvalue().replace("│", " ").split())

    return {name: capture("--dataset", name) for name in ("digits", "mnist")}


@pytest.mark.parametrize(
    "field",
    [f for f in dataclasses.fields(Config) if f.name not in LABELING_SETTINGS],
    ids=lambda f: f.name,
)
@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_help_lists_every_flag_with_what_it_is_and_its_default(field, dataset, helps):
    text = helps[dataset]
    is_switch = isinstance(getattr(Config, field.name), bool)  # --this, --no-this
    flag = f"--{field.name.replace('_', '-')}" + ("," if is_switch else " ")
    assert flag in text
    entry = text[text.rindex(flag) :]
    value = getattr(defaults(dataset), field.name)
    shown = " ".join(value) if isinstance(value, tuple) else str(value)
    default = f"(default: {shown})"
    assert default in entry
    described = entry[: entry.index(default)]
    assert "(default:" not in described  # the default belongs to this flag
    assert len(described.split()) >= 6


@pytest.mark.parametrize(
    "argv", [["--budgt", "3"], ["--budget", "three"], ["--imbalance", "stairs"]]
)
def test_what_is_no_flag_ends_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        parse(argv)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert argv[0] in captured.err and "Traceback" not in captured.err


def test_the_help_names_all_strategies(helps):
    for name in STRATEGIES:
        assert name in helps["digits"]
