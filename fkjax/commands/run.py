"""`fkjax run`: comparison of strategies on a biased pool.

The command parses its settings, opens the folder of the run, runs the rounds that are
not in it yet, and draws figures.
"""

import hashlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rich.console

from fkjax.base import UserError, printable
from fkjax.commands import label
from fkjax.commands.exit_status import exit_status, notify
from fkjax.commands.options import given, parse_config
from fkjax.data import datasets
from fkjax.data.reading import plain_errors
from fkjax.experiment.checks import check
from fkjax.experiment.config import Config
from fkjax.experiment.play import groups, play_seeds
from fkjax.experiment.presets import defaults
from fkjax.experiment.progress import Progress
from fkjax.experiment.resuming import LABELING_SETTINGS, open_run
from fkjax.experiment.setup import prepare
from fkjax.parallel.examples import Streamed
from fkjax.parallel.flags import usual_flags
from fkjax.parallel.processes import agreed, connect, is_first, stopping_together
from fkjax.report import figures, tables
from fkjax.runs.folder import FIGURES, RunFolder
from fkjax.runs.journal import Journal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        0 on success, 2 after an error of the user, 130 after Ctrl-C, and 3 if another
        of several processes has stopped. All finished rounds are kept.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    if given(args, "oracle")["oracle"] == "file":
        return label.main(_without_oracle(args))

    def command() -> None:
        with stopping_together():
            run(parse(args))

    return exit_status(command)


def _without_oracle(args: list[str]) -> list[str]:
    """Returns the arguments of `fkjax label`, which was once `run --oracle file`."""
    if "--oracle" in args:
        at = args.index("--oracle")
        return args[:at] + args[at + 2 :]
    return [arg for arg in args if arg != "--oracle=file"]


def run(config: Config) -> list[dict[str, Any]]:
    """Runs all strategies and seeds, or resumes the run in the output folder.

    Args:
        config: settings, such as `fkjax.experiment.presets.defaults("mnist")`.

    Returns:
        The records of all rounds, as in rounds.jsonl.

    Raises:
        UserError: if a setting, the data or the output folder is invalid.
    """
    check(config)
    _meet(config)
    with jax.enable_x64(config.precision == "float64"), usual_flags():
        return _run(config)


def _run(config: Config) -> list[dict[str, Any]]:
    dataset = datasets.load(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        follow_links=config.follow_links,
        notify=notify if is_first() else None,
    )
    experiment = prepare(config, dataset)
    experiment.parts(config.seed)  # an impossible pool is reported before any output
    num_rounds = config.rounds + 1 - config.first_round
    total = config.seeds * (1 + len(experiment.strategies) * num_rounds)
    data: dict[str, Any] = {"data": _fingerprint(dataset)}
    if experiment.correction.shares is not None:
        data["deployment_shares"] = experiment.correction.shares
    with (
        open_run(config, data) as folder,
        Progress(total, console=None if is_first() else _nowhere()) as progress,
    ):
        journal = Journal(folder, tell=progress.tell, agreed=agreed)
        progress.advance("resuming", steps=len(journal.records))
        try:
            with plain_errors(dataset.train_images, dataset.test_images):
                for seeds in groups(config, dataset):
                    play_seeds(experiment, seeds, journal, progress)
        finally:
            progress.close()
            if journal.records and is_first():
                _conclude(config, journal.records, folder)
    return journal.records


def _meet(config: Config) -> None:
    """Connects to the other processes of a distributed run."""
    given = (config.coordinator, config.num_processes, config.process_id)
    if config.distributed:
        connect(*given)
    elif given != (None, None, None):
        raise UserError(
            "--coordinator, --num-processes and --process-id are only used by several "
            "processes: add --distributed, or leave them out"
        )


def _fingerprint(dataset: datasets.Dataset) -> str:
    """Computes the SHA-256 of the labels, and of images that are in memory."""
    sha = hashlib.sha256()
    for array in dataset[1:5]:
        if not isinstance(array, Streamed):
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _nowhere() -> rich.console.Console:
    return rich.console.Console(file=io.StringIO())


def _conclude(
    config: Config, records: list[dict[str, Any]], folder: RunFolder | None
) -> None:
    rich.console.Console().print(tables.final_table(records))
    if correction := tables.correction_table(records):
        rich.console.Console().print(correction)
    if folder is None:
        print("Nothing was saved: use --output-dir DIR to save records and figures.")
        return
    bias = f"{config.imbalance.replace('_', ' ')} imbalance {config.imbalance_ratio:g}x"
    curve, confusion = (folder.path / name for name in FIGURES)
    figures.draw_learning_curve(records, curve, title=f"{config.dataset}, {bias}")
    figures.draw_confusion(records, confusion)
    print(f"Records and figures are in {printable(str(folder.path))}.")


def parse(argv: Sequence[str] | None) -> Config:
    """Parses the command line; exits with status 2 if a flag is invalid.

    Raises:
        UserError: if there is no such model or preset.
    """
    known = given(argv, "dataset", "model", "preset")
    default = defaults(
        known["dataset"], model=known["model"], preset=known["preset"] or "none"
    )
    return parse_config(
        argv, prog="fkjax run", default=default, hidden=LABELING_SETTINGS
    )
