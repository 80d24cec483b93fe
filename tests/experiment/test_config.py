"""The settings, their flags, defaults and checks."""

import contextlib
import dataclasses
import io

import pytest

from fkjax.acquisition import STRATEGIES
from fkjax.base import UserError, check_name
from fkjax.commands.run import parse
from fkjax.experiment import presets
from fkjax.experiment.checks import check
from fkjax.experiment.config import Config
from fkjax.experiment.presets import defaults
from fkjax.models import MODELS
from fkjax.training.fit import Schedule


@pytest.mark.parametrize("dataset", ["digits", "mnist", "fashion_mnist"])
def test_the_defaults_are_accepted(dataset):
    check(defaults(dataset))


def test_the_defaults_of_mnist_are_the_papers():
    mnist = defaults("mnist")
    assert (mnist.rounds, mnist.budget, mnist.validation_size) == (10, 125, 10_000)
    assert (mnist.imbalance, mnist.imbalance_ratio) == ("step", 100.0)
    assert mnist.training() == Schedule(50, 25, 0.05, 0.5, 0.0, 15)
    assert mnist.rotation_pretraining() == Schedule(8, 25, 0.05, 0.5, 0.0, 3)
    assert mnist.taps == ("conv1", "conv2", "fc1")
    assert mnist.checkpoint_selection == "last" and mnist.seeds == 5


def test_the_digits_have_smaller_ones():
    changed = {
        field.name
        for field in dataclasses.fields(Config)
        if getattr(defaults("digits"), field.name)
        != getattr(defaults("mnist"), field.name)
    }
    names = {"dataset", "rounds", "budget", "imbalance_ratio", "validation_size"}
    names |= {"conv_dropout", "dense_dropout"}
    assert changed == names


def test_own_images_have_defaults_by_their_size():
    for argv, model in (
        (["--images", "d"], "resnet10"),
        (["--images", "d", "--image-size", "28"], "lenet"),
        (["--oracle=file", "--image-size=33"], "resnet10"),
        (["--oracle", "file", "--image_size", "8", "--model", "resnet18"], "resnet18"),
    ):
        parsed = parse(argv)
        assert parsed.model == model and parsed.taps == MODELS[model].taps
        assert (parsed.seeds, parsed.strategies) == (1, ("fisher_nearest",))
        assert (parsed.oracle, parsed.dataset) == ("file", "images")
    assert parse(["--images", "d", "--budget", "7"]).budget == 7


def test_a_dataset_is_not_labeled_by_a_person():
    with pytest.raises(UserError, match="--dataset mnist cannot be used with --oracle"):
        check(
            dataclasses.replace(
                presets.image_defaults(),
                dataset="mnist",
                images="d",
                labels="l",
                output_dir="o",
            )
        )


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_the_presets_are_accepted(preset):
    check(defaults(preset=preset))


def test_the_presets_are_the_papers():
    """Gudovskiy et al. 2020, Sec. 5: rounds, budgets, schedules, validation sets."""
    mnist, svhn, imagenet = (
        defaults(preset=f"paper-{name}") for name in ("mnist", "svhn", "imagenet")
    )
    assert mnist == dataclasses.replace(
        defaults("mnist"), preset="paper-mnist", seeds=10
    )
    assert (svhn.model, svhn.taps) == ("resnet10_7x7", ("stage3", "pool"))
    assert (svhn.rounds, svhn.budget, svhn.seeds) == (10, 1250, 5)
    assert svhn.training() == Schedule(35, 128, 0.1, 0.5, 0.0, 15)
    assert svhn.rotation_pretraining() == Schedule(8, 128, 0.1, 0.5, 0.0, 3)
    assert svhn.validation_size == 104_388
    assert (mnist.copies, svhn.copies, imagenet.copies) == (128, 64, 32)
    assert (imagenet.model, imagenet.taps) == ("resnet18", ("stage3", "pool"))
    assert (imagenet.rounds, imagenet.budget, imagenet.seeds) == (10, 64_000, 1)
    schedule = imagenet.training()._replace(decay_every=0)
    assert schedule == Schedule(60, 128, 0.1, 0.9, 1e-4, 0)
    assert imagenet.rotation_pretraining().epochs == 15
    assert imagenet.validation_size == 50_000


def test_a_flag_overrides_its_preset_alone():
    chosen = parse("--preset paper-svhn --budget 7 --model lenet".split())
    svhn = defaults(preset="paper-svhn")
    assert (chosen.budget, chosen.model, chosen.epochs) == (7, "lenet", 35)
    assert chosen.taps == ("conv1", "conv2", "fc1")  # lenet's, not the preset's
    assert chosen.dataset == svhn.dataset and chosen.seeds == svhn.seeds
    assert parse("--preset paper-svhn --dataset cifar10".split()).dataset == "cifar10"


@pytest.mark.parametrize(
    ("choice", "hint"),
    [({"model": "resnet1"}, "resnet1"), ({"preset": "paper-minst"}, "paper-mnist")],
)
def test_an_unknown_model_or_preset_is_refused(choice, hint):
    with pytest.raises(UserError, match=hint):
        defaults(**choice)


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


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda f: f.name)
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
