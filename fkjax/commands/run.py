"""`python -m fkjax.run`: strategies compared on a biased pool, from the command line.

Parses, opens the folder of the run, plays what is not in it yet, and draws.
"""

import argparse
import hashlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import tyro

from fkjax.base import UserError, printable
from fkjax.commands.label import label
from fkjax.data import datasets
from fkjax.data.reading import plain_errors
from fkjax.experiment.checks import check
from fkjax.experiment.config import Config
from fkjax.experiment.play import groups, play_seeds
from fkjax.experiment.presets import defaults, image_defaults
from fkjax.experiment.progress import Progress
from fkjax.experiment.resuming import open_run
from fkjax.experiment.setup import prepare
from fkjax.parallel.examples import Streamed
from fkjax.parallel.processes import agreed, connect, is_first, stopping_together
from fkjax.report import figures, tables
from fkjax.runs.folder import FIGURES, RunFolder
from fkjax.runs.journal import Journal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        argv: the arguments, without the program's name; `sys.argv` by default.

    Returns:
        0; 2 after a mistake that the user can mend, told in one sentence; 3 of one of
        several processes, after another stopped; 130 after Ctrl-C. Every finished round
        is kept.
    """
    try:
        with stopping_together():
            run(parse(argv))
    except UserError as error:
        print(f"fkjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fkjax: interrupted.", file=sys.stderr)
        return 130
    return 0


def run(config: Config) -> list[dict[str, Any]]:
    """Runs every strategy with every seed; goes on where a run of the folder ended.

    Args:
        config: what to run, such as `fkjax.experiment.presets.defaults("mnist")`.

    Returns:
        The records of all rounds, as they are in rounds.jsonl.

    Raises:
        UserError: if the configuration, the data or the output folder is at fault.
    """
    check(config)
    _meet(config)
    with jax.enable_x64(config.precision == "float64"):
        return _run(config) if config.oracle == "dataset" else label(config)


def _run(config: Config) -> list[dict[str, Any]]:
    dataset = datasets.load(
        config.dataset, data_dir=config.data_dir, image_size=config.image_size
    )
    experiment = prepare(config, dataset)
    experiment.parts(config.seed)  # a pool that cannot be: told before anything is made
    total = config.seeds * (1 + len(experiment.strategies) * config.rounds)
    with (
        open_run(config, {"data": _fingerprint(dataset)}) as folder,
        Progress(total, console=None if is_first() else _nowhere()) as progress,
    ):
        journal = Journal(folder, tell=progress.tell, agreed=agreed)
        progress.advance("going on", steps=len(journal.records))
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
    """Meets the other processes, if there are to be any."""
    given = (config.coordinator, config.num_processes, config.process_id)
    if config.distributed:
        connect(*given)
    elif given != (None, None, None):
        raise UserError(
            "--coordinator, --num-processes and --process-id tell several processes "
            "apart: give them with --distributed, or leave them out."
        )


def _fingerprint(dataset: datasets.Dataset) -> str:
    """SHA-256 of the labels, and of images that are in memory."""
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
    if folder is None:
        print("Nothing was written; --output-dir DIR keeps records and figures.")
        return
    bias = f"{config.imbalance.replace('_', ' ')} imbalance {config.imbalance_ratio:g}x"
    curve, confusion = (folder.path / name for name in FIGURES)
    figures.draw_learning_curve(records, curve, title=f"{config.dataset}, {bias}")
    figures.draw_confusion(records, confusion)
    print(f"Records and figures are in {printable(str(folder.path))}.")


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
