"""What a run can be told, with its defaults, and what is refused."""

import argparse
import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import tyro

from fkjax.acquisition import STRATEGIES
from fkjax.base import UserError
from fkjax.training import Schedule

_folder = tyro.conf.arg(metavar="DIR")


@dataclasses.dataclass(frozen=True)
class Config:
    """Active learning on a biased pool: query, label, train, round after round.

    Runs every strategy on the same pools, pretrained weights and random seeds, and
    reports the test accuracy after each round. The defaults are the paper's for MNIST;
    the digits have smaller ones. `--dataset NAME --help` shows those of NAME.

    fisher_oracle is shown the hidden labels: a ceiling, not a strategy to deploy.
    Keeping the epoch that is best on the test set is for comparison with the paper,
    which did that; every record says which epoch was kept.
    """

    dataset: str = "digits"
    """digits (built in), mnist, fashion_mnist, or a name in TensorFlow Datasets."""
    data_dir: Annotated[str | None, _folder] = None
    """Holds DATASET/*-ubyte[.gz], or what TFDS prepares; else $FKJAX_DATA_DIR."""
    output_dir: Annotated[str | None, _folder] = None
    """New or empty folder for records and figures; without it, none are written."""
    strategies: tuple[str, ...] = ("random", "fisher_nearest")
    """Of random; feature_match, fisher_argmax, fisher_nearest, fisher_nearest_joint,
    fisher_oracle; with copies fisher_covariance, fisher_information,
    fisher_information_diagonal; with MC-dropout variation_ratio, entropy, bald,
    mean_std; margin, least_confidence."""
    seeds: int = 5
    """Number of runs of each strategy, with consecutive seeds."""
    seed: int = 0
    """First seed. Every random choice follows from it."""
    side_by_side: Literal["auto", "yes", "no"] = "auto"
    """All seeds of a strategy as one program; auto: on GPU and TPU, not on CPU."""
    rounds: int = 10
    """Rounds of query, oracle and training."""
    budget: int = 125
    """Labels bought in each round."""

    imbalance: Literal["step", "long_tail"] = "step"
    """step: rare classes keep 1/ratio of the others; long_tail: sizes fall by it."""
    imbalance_ratio: float = 100.0
    """How strongly; 1 leaves the pool as it is."""
    rare_classes: Annotated[
        tuple[int, ...] | None, tyro.conf.arg(metavar="INT [INT ...]")
    ] = None
    """Which classes are rare; the second half if not given, as in the paper."""
    label_noise: float = 0.0
    """Probability that the oracle answers with another class."""
    validation_size: int = 10_000
    """Class-balanced images held out of the training part, never trained on."""
    tuning_size: int = 0
    """How many of these only serve --checkpoint-selection tuning."""

    taps: tuple[str, ...] = ("conv1", "conv2", "fc1")
    """Activations in the descriptors, of conv1, conv2, fc1 and logits."""
    passes: int = 128
    """Passes of MC-dropout over the pool."""
    copies: int = 128
    """Perturbed copies of each pool image, for fisher_covariance and _information*."""
    pretraining: Literal["rotation", "none"] = "rotation"
    """Self-supervision on the whole pool before the first round."""
    pretraining_epochs: int = 8
    """Epochs of that; the learning rate drops to a tenth every 3."""
    epochs: int = 50
    """Epochs of training a round; the learning rate drops to a tenth every 15."""
    batch_size: int = 25
    """Images in a training step."""
    learning_rate: float = 0.05
    """Of stochastic gradient descent."""
    momentum: float = 0.5
    """Of stochastic gradient descent."""
    conv_dropout: float = 0.25
    """Share of values dropped after each convolution block in all training."""
    dense_dropout: float = 0.5
    """The same after fc1."""
    checkpoint_selection: Literal["last", "tuning", "test"] = "last"
    """Epoch kept of each round: the last, or the best on these images."""

    def training(self) -> Schedule:
        """The schedule of each round's training."""
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )

    def rotation_pretraining(self) -> Schedule:
        """The schedule of the pretraining."""
        return self.training()._replace(epochs=self.pretraining_epochs, decay_every=3)


_SMALLER = {
    "digits": {
        "rounds": 6,
        "budget": 10,
        "imbalance_ratio": 10.0,
        "validation_size": 240,
        "conv_dropout": 0.0,  # a handful of labels gives too few steps for it
        "dense_dropout": 0.0,
    }
}


def defaults(dataset: str) -> Config:
    """The configuration of a dataset when nothing else is said.

    >>> defaults("mnist").budget, defaults("digits").budget
    (125, 10)
    """
    return Config(dataset=dataset, **_SMALLER.get(dataset, {}))


def parse(argv: Sequence[str] | None) -> Config:
    """Reads the command line; exits with status 2 at a flag that is not one."""
    dataset = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    dataset.add_argument("--dataset", default=Config.dataset)
    known, _ = dataset.parse_known_args(argv)
    return tyro.cli(
        Config, prog="python -m fkjax.run", args=argv, default=defaults(known.dataset)
    )


def check(config: Config) -> None:
    """Refuses what no dataset could make sense of.

    Raises:
        UserError: naming the flag, what it was given, and what it takes.
    """
    for name in config.strategies:
        check_name(name, STRATEGIES, "strategy")
    if not config.strategies:
        raise UserError("--strategies needs at least one name, such as fisher_nearest.")
    if len(set(config.strategies)) < len(config.strategies):
        raise UserError(
            f"--strategies names one twice ({' '.join(config.strategies)}): "
            "name each once."
        )
    if not config.taps or len(set(config.taps)) < len(config.taps):
        raise UserError(
            f"--taps takes one or more different names, got {' '.join(config.taps)!r}."
        )
    counts = (
        "seeds",
        "rounds",
        "budget",
        "epochs",
        "pretraining_epochs",
        "batch_size",
        "passes",
        "copies",
    )
    for flag in (*counts, "validation_size"):
        _require(config, flag, "1 or more", lambda x: x >= 1)
    _require(config, "seed", "a number from 0 to 2147483647", lambda x: 0 <= x < 2**31)
    _require(config, "tuning_size", "0 or more", lambda x: x >= 0)
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
    for flag in ("conv_dropout", "dense_dropout"):
        _require(config, flag, "a share from 0 to 0.99", lambda x: 0 <= x <= 0.99)
    _require(config, "momentum", "a number from 0 to below 1", lambda x: 0 <= x < 1)
    if config.checkpoint_selection == "tuning" and config.tuning_size == 0:
        raise UserError(
            "--checkpoint-selection tuning needs images to select on, but "
            "--tuning-size is 0: set it, for example to a tenth of --validation-size."
        )


def check_name(name: str, known: Iterable[str], kind: str) -> None:
    """Refuses a name that is not known, and offers the nearest that is.

    Raises:
        UserError: with the nearest name, if one is near, and all known ones.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"There is no {kind} {name!r}: {hint}Known are {', '.join(known)}.")


def _require(
    config: Config, field: str, expected: str, is_right: Callable[[Any], bool]
) -> None:
    value = getattr(config, field)
    if not is_right(value):
        flag = "--" + field.replace("_", "-")
        raise UserError(f"{flag} must be {expected}, got {value}.")
