"""`fkjax label`: labeling sessions for a user's own images."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import rich.console
import tyro

from fkjax.base import UserError, printable
from fkjax.commands.exit_status import exit_status, notify
from fkjax.commands.options import given, parse_config
from fkjax.experiment.checks import check
from fkjax.experiment.config import Config
from fkjax.experiment.presets import image_defaults
from fkjax.experiment.progress import Progress
from fkjax.labeling.loop import play_labeling
from fkjax.labeling.session import open_session
from fkjax.parallel.flags import usual_flags
from fkjax.report import tables

_HIDDEN = (
    *("preset", "dataset", "data_dir", "oracle", "overwrite", "distributed"),
    *("coordinator", "num_processes", "process_id", "seeds", "side_by_side"),
    *("imbalance", "imbalance_ratio", "rare_classes", "label_noise"),
    *("validation_size", "tuning_size", "checkpoint_selection"),
)
_DESCRIPTION = """Label your images in rounds, with a model that learns from the labels.

The command trains a model on the images whose labels are known, chooses images to label
from the others, writes OUTPUT_DIR/to_label.csv and tasks for Label Studio, and exits.
Fill in the labels and repeat the command: it trains on them and chooses the next
images."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        0 on success, 2 after an error of the user, 130 after Ctrl-C.
    """
    return exit_status(lambda: label(parse(argv)))


def parse(argv: Sequence[str] | None) -> Config:
    """Parses the command line; exits with status 2 if a flag is invalid.

    Raises:
        UserError: if there is no such model.
    """
    known = given(argv, "image_size", "model")
    size = known["image_size"] or ""
    default = image_defaults(
        image_size=int(size) if size.isdecimal() else 224, model=known["model"]
    )
    strategy = tyro.conf.arg(
        name="strategy",
        metavar="NAME",
        help="Strategy that chooses the images: any of `fkjax run` but fisher_oracle "
        "and balance_oracle.",
    )
    return parse_config(
        argv,
        prog="fkjax label",
        default=default,
        hidden=_HIDDEN,
        described={"strategies": strategy},
        description=_DESCRIPTION,
    )


def label(config: Config) -> list[dict[str, Any]]:
    """Continues a session until labels are missing, and prints which.

    Args:
        config: settings, with `oracle` "file"; see `parse`.

    Returns:
        The records of all rounds.

    Raises:
        UserError: if a setting, an image, an answer or the output folder is invalid.
    """
    check(config)
    with jax.enable_x64(config.precision == "float64"), usual_flags():
        return _label(config)


def _label(config: Config) -> list[dict[str, Any]]:
    assert config.images and config.labels and config.output_dir  # by `check`
    home, output = map(os.path.realpath, (config.images, config.output_dir))
    if os.path.commonpath([home, output]) == home:
        raise UserError(
            f"--output-dir {config.output_dir} must not be in --images "
            f"{config.images}, where its files would become images: choose another"
        )
    with open_session(config, tell=notify) as session:
        steps = len(session.listing.names) + 3
        with Progress(steps) as progress:
            outcome = play_labeling(config, session, progress)
    if outcome.records:
        rich.console.Console().print(tables.labeling_table(outcome.records))
    print(printable(outcome.sentence))
    return outcome.records
