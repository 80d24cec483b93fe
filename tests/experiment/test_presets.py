"""The defaults of datasets, of a user's images and of presets."""

import dataclasses

import pytest

from fkjax.base import UserError
from fkjax.commands import label
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


def test_the_defaults_of_training_on_mnist_are_the_papers():
    mnist = defaults("mnist")
    assert (mnist.rounds, mnist.budget) == (10, 125)
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
        (["--image-size=33"], "resnet10"),
        (["--image_size", "8", "--model", "resnet18"], "resnet18"),
    ):
        parsed = label.parse(argv)
        assert parsed.model == model and parsed.taps == MODELS[model].taps
        assert (parsed.seeds, parsed.strategies) == (1, ("fisher_nearest",))
        assert (parsed.oracle, parsed.dataset) == ("file", "images")
    assert label.parse(["--images", "d", "--budget", "7"]).budget == 7


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_the_presets_are_accepted(preset):
    check(defaults(preset=preset))


def test_the_presets_are_the_papers():
    """Gudovskiy et al. 2020, Sec. 5: rounds, budgets, schedules, validation sets."""
    mnist, svhn, imagenet = (
        defaults(preset=f"paper-{name}") for name in ("mnist", "svhn", "imagenet")
    )
    assert mnist == dataclasses.replace(
        defaults("mnist"),
        preset="paper-mnist",
        seeds=10,
        validation_size=10_000,
        validation_role="hold-out",
        prior_correction="none",
    )
    for paper in (svhn, imagenet):
        assert (paper.validation_role, paper.prior_correction) == ("hold-out", "none")
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
