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
from fkjax.experiment.stopping import Rule
from fkjax.models import MODELS
from fkjax.training.fit import Schedule

_folder = tyro.conf.arg(metavar="DIR")


@dataclasses.dataclass(frozen=True)
class Config:
    """Active learning on a biased pool: query, label, train, round after round.

    Runs every strategy on the same pools, pretrained weights and random seeds, and
    reports the test accuracy after each round. The defaults are the paper's for MNIST;
    the digits have smaller ones, each model has its own taps and dropout, and a preset
    has all of them. `--preset NAME --help` shows those of NAME; so do --dataset and
    --model.

    fisher_oracle is shown the hidden labels: a ceiling, not a strategy to deploy.
    Keeping the epoch that is best on the test set is for comparison with the paper,
    which did that; every record says which epoch was kept.
    """

    preset: Literal["none", "paper-mnist", "paper-svhn", "paper-imagenet"] = "none"
    """All settings of one of the paper's experiments; any flag overrides its own."""
    dataset: str = "digits"
    """digits (built in), mnist, fashion_mnist, svhn, cifar10, cifar100, a folder of
    images in DATA_DIR, or a name in TensorFlow Datasets."""
    data_dir: Annotated[str | None, _folder] = None
    """Holds DATASET/, or what TFDS prepares; else $FKJAX_DATA_DIR."""
    image_size: int = 224
    """Height and width to which images of varying size are resized."""
    oracle: Literal["dataset", "file"] = "dataset"
    """Who answers. dataset: its own labels, in an experiment. file: a person, in
    OUTPUT_DIR/to_label.csv or in Label Studio, about the images of IMAGES; each command
    does what it can, says what it waits for, and stops."""
    images: Annotated[str | None, _folder] = None
    """Folder of images of one's own; those that LABELS does not name are the pool."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """CSV file of the labels that are known, with the columns file and label, and
    perhaps set: validation (if not given), train or test."""
    new_classes: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")
    ] = ()
    """Classes that LABELS lacks and answers may name; so may those that are added to
    OUTPUT_DIR/classes.txt."""
    label_studio: Literal["local-files", "embedded"] = "local-files"
    """How Label Studio gets the images: from a local storage of IMAGES, or within its
    tasks."""
    output_dir: Annotated[str | None, _folder] = None
    """Folder for records and figures; without it, none are written. The same command
    goes on with the run that it holds."""
    overwrite: bool = False
    """Delete the run that OUTPUT_DIR holds, and begin anew."""
    distributed: bool = False
    """This is one of several processes, of which each is started by the same command
    with its own PROCESS_ID, and the first alone writes and speaks."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where they meet: at the first process; else $JAX_COORDINATOR_ADDRESS, or as JAX
    finds it on Slurm, Open MPI or a TPU; so are the next two."""
    num_processes: int | None = None
    """How many they are; else $JAX_NUM_PROCESSES."""
    process_id: int | None = None
    """Which one this is, from 0 on; else $JAX_PROCESS_ID."""
    strategies: tuple[str, ...] = ("random", "fisher_nearest")
    """Of random; feature_match, fisher_argmax, fisher_nearest, fisher_nearest_joint,
    fisher_oracle; with copies fisher_covariance, fisher_information,
    fisher_information_diagonal; with MC-dropout variation_ratio, entropy, bald,
    mean_std; margin, least_confidence; and adversarial vaal."""
    seeds: int = 5
    """Number of runs of each strategy, with consecutive seeds."""
    seed: int = 0
    """First seed. Every random choice follows from it."""
    side_by_side: Literal["auto", "yes", "no"] = "auto"
    """All seeds of a strategy as one program; auto: on GPU and TPU, not on CPU, nor
    where images are streamed."""
    rounds: int = 10
    """Rounds of query, oracle and training."""
    budget: int = 125
    """Labels bought in each round."""
    stop_when: Literal["budget", "plateau", "target-accuracy", "low-gain"] = "budget"
    """Stop a strategy and seed before the last round, by accuracy on the validation
    set, when it reaches TARGET_ACCURACY; when no round of the last PATIENCE is better
    than all before (plateau); when these gained less than MIN_GAIN (low-gain)."""
    target_accuracy: float = 0.95
    """At which target-accuracy stops, as a fraction."""
    patience: int = 3
    """Rounds that plateau and low-gain look back."""
    min_gain: float = 0.5
    """Below which low-gain stops: points of accuracy (hundredths) per 100 labels."""

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
    """Class-balanced images held out of the training part; --train-on-validation apart,
    never trained on."""
    tuning_size: int = 0
    """How many of these only serve --checkpoint-selection tuning."""

    random_share: float = 0.0
    """Of every budget, the share drawn at random: a guard for few validation images."""

    model: str = "lenet"
    """lenet, resnet10, resnet10_7x7 (with the stem of large images) or resnet18."""
    ensemble: int = 1
    """Number of models that are trained and asked as one."""
    taps: tuple[str, ...] = ("conv1", "conv2", "fc1")
    """Activations in the descriptors: conv1, conv2, fc1, logits of lenet; stage1 to
    stage4, pool, logits of the others."""
    passes: int = 128
    """Passes of MC-dropout over the pool, by each model of the ensemble."""
    vaal_steps: int = 1000
    """Training steps of the networks of vaal in each of its queries."""
    copies: int = 128
    """Perturbed copies of each pool image, for fisher_covariance and _information*."""
    pretraining: Literal["rotation", "none"] = "rotation"
    """Self-supervision on the whole pool before the first round."""
    pretraining_epochs: int = 8
    """Epochs of that pretraining on the pool."""
    pretraining_decay_every: int = 3
    """Epochs after which its learning rate drops to a tenth, again and again."""
    epochs: int = 50
    """Epochs of training a round, which starts from the last round's weights."""
    decay_every: int = 15
    """Epochs after which its learning rate drops to a tenth, again and again."""
    batch_size: int = 25
    """Images in a training step."""
    learning_rate: float = 0.05
    """Of stochastic gradient descent."""
    momentum: float = 0.5
    """Of stochastic gradient descent."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights."""
    conv_dropout: float = 0.25
    """Share of values dropped after each convolution block in all training."""
    dense_dropout: float = 0.5
    """The same before the last layer."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the model, its gradients and the kernel; random draws are the same in both."""
    train_on_validation: bool = False
    """Train on the validation set too: the baseline that has no use for a query."""
    checkpoint_selection: Literal["last", "tuning", "test"] = "last"
    """Epoch kept of each round: the last, or the best on these images."""

    def training(self) -> Schedule:
        """The schedule of each round's training."""
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_every=self.decay_every,
        )

    def stop_rule(self) -> Rule:
        """What the stop rule is told."""
        return Rule(self.target_accuracy, self.patience, self.min_gain)

    def rotation_pretraining(self) -> Schedule:
        """The schedule of the pretraining."""
        return self.training()._replace(
            epochs=self.pretraining_epochs, decay_every=self.pretraining_decay_every
        )


_SMALLER: dict[str, dict[str, Any]] = {
    "digits": {
        "rounds": 6,
        "budget": 10,
        "imbalance_ratio": 10.0,
        "validation_size": 240,
    }
}

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "paper-mnist": {"dataset": "mnist", "seeds": 10},
    "paper-svhn": {
        "dataset": "svhn",
        "model": "resnet10_7x7",
        "seeds": 5,
        "budget": 1250,
        "validation_size": 104_388,
        "epochs": 35,
        "batch_size": 128,
        "learning_rate": 0.1,
        "copies": 64,
    },
    "paper-imagenet": {
        "dataset": "imagenet",
        "model": "resnet18",
        "seeds": 1,
        "budget": 64_000,
        "validation_size": 50_000,
        "pretraining_epochs": 15,
        "pretraining_decay_every": 5,  # this and 20: fkjax's; the paper says no number
        "epochs": 60,
        "decay_every": 20,
        "batch_size": 128,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "copies": 32,
    },
}
"""The experiments of Gudovskiy et al. 2020, Sec. 5, where they differ from `Config`."""


def defaults(
    dataset: str | None = None, *, model: str | None = None, preset: str = "none"
) -> Config:
    """The configuration when nothing else is said.

    >>> defaults("mnist").budget, defaults("digits").budget
    (125, 10)
    >>> defaults(preset="paper-svhn").taps
    ('stage3', 'pool')

    Args:
        dataset: instead of the preset's.
        model: instead of the preset's.
        preset: one of `PRESETS`.

    Raises:
        UserError: if there is no such preset or model.
    """
    check_name(preset, PRESETS, "preset")
    chosen = PRESETS[preset]
    dataset = dataset or str(chosen.get("dataset", Config.dataset))
    model = model or str(chosen.get("model", Config.model))
    check_name(model, MODELS, "model")
    own = MODELS[model]._asdict()
    del own["make"]
    if (dataset, model) == ("digits", "lenet"):
        # A handful of labels gives too few steps for dropout.
        own |= {"conv_dropout": 0.0, "dense_dropout": 0.0}
    settings: dict[str, Any] = {**own, **_SMALLER.get(dataset, {}), **chosen}
    settings |= {"preset": preset, "dataset": dataset, "model": model}
    return Config(**settings)


def image_defaults(*, image_size: int = 224, model: str | None = None) -> Config:
    """The configuration for a person's own images when nothing else is said.

    >>> image_defaults(image_size=28).model, image_defaults().model
    ('lenet', 'resnet10')

    Args:
        image_size: S, to which they are resized.
        model: instead of lenet for up to 32 pixels, and resnet10 for more.

    Raises:
        UserError: if there is no such model.
    """
    model = model or ("lenet" if image_size <= 32 else "resnet10")
    return dataclasses.replace(
        defaults("images", model=model),
        image_size=image_size,
        oracle="file",
        strategies=("fisher_nearest",),
        seeds=1,
    )


def parse(argv: Sequence[str] | None) -> Config:
    """Reads the command line; exits with status 2 at a flag that is not one.

    Raises:
        UserError: as `defaults`.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("dataset", "model", "preset", "oracle", "images"):
        first.add_argument(f"--{flag}")
    for flag in ("--image-size", "--image_size"):
        first.add_argument(flag, dest="image_size", type=_size, default=224)
    known, _ = first.parse_known_args(argv)
    if known.oracle == "file" or known.images is not None:
        default = image_defaults(image_size=known.image_size, model=known.model)
    else:
        default = defaults(
            known.dataset, model=known.model, preset=known.preset or "none"
        )
    return tyro.cli(Config, prog="python -m fkjax.run", args=argv, default=default)


def _size(text: str) -> int:
    """A number; what is none is told when all flags are read."""
    return int(text) if text.isdecimal() else 224


def check(config: Config) -> None:
    """Refuses what no dataset could make sense of.

    Raises:
        UserError: naming the flag, what it was given, and what it takes.
    """
    check_name(config.model, MODELS, "model")
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
            f"--seed {config.seed} and --seeds {config.seeds} go past the last seed, "
            "2147483647: lower either."
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
    _require(config, "random_share", "a share from 0 to 1", lambda x: 0 <= x <= 1)
    _require(
        config,
        "weight_decay",
        "a finite number, 0 or more",
        lambda x: math.isfinite(x) and x >= 0,
    )
    for flag in ("conv_dropout", "dense_dropout"):
        _require(config, flag, "a share from 0 to 0.99", lambda x: 0 <= x <= 0.99)
    _require(config, "momentum", "a number from 0 to below 1", lambda x: 0 <= x < 1)
    _check_oracle(config)
    if config.train_on_validation and config.stop_when != "budget":
        raise UserError(
            f"--stop-when {config.stop_when} looks at the validation set, which "
            "--train-on-validation trains on: leave out either."
        )
    if config.checkpoint_selection == "tuning" and config.tuning_size == 0:
        raise UserError(
            "--checkpoint-selection tuning needs images to select on, but "
            "--tuning-size is 0: set it, for example to a tenth of --validation-size."
        )


_OF_A_PERSON: dict[str, Any] = {
    "preset": "none",
    "dataset": "images",
    "seeds": 1,
    "label_noise": 0.0,
    "train_on_validation": False,
    "checkpoint_selection": "last",
    "distributed": False,
    "overwrite": False,
}
"""What cannot be set otherwise if a person answers."""


def _check_oracle(config: Config) -> None:
    if config.oracle == "dataset":
        for flag in ("images", "labels", "new_classes"):
            if getattr(config, flag):
                raise UserError(
                    f"--{flag.replace('_', '-')} is for labels that a person gives: "
                    "add --oracle file, or leave it out."
                )
        return
    for flag in ("images", "labels", "output_dir"):
        if not getattr(config, flag):
            raise UserError(
                "--oracle file needs --images DIR, --labels FILE and --output-dir DIR, "
                f"but --{flag.replace('_', '-')} is missing: add it."
            )
    for flag, value in _OF_A_PERSON.items():
        if getattr(config, flag) != value:
            raise UserError(
                f"--{flag.replace('_', '-')} {getattr(config, flag)} does not go with "
                "--oracle file, where one person labels one pool once: leave it out."
            )
    if len(config.strategies) > 1 or "fisher_oracle" in config.strategies:
        raise UserError(
            "--oracle file takes one strategy other than fisher_oracle, which is shown "
            f"hidden labels, got {' '.join(config.strategies)}: name one."
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
