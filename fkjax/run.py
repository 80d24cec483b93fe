"""`python -m fkjax.run`: strategies compared on a biased pool, from the command line.

Parses, opens the folder of the run, plays what is not in it yet, and draws.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import rich.console

from fkjax import datasets, figures, tables
from fkjax.base import UserError, printable
from fkjax.cluster import agreed, connect, is_first, stopping_together
from fkjax.config import Config, check, parse
from fkjax.experiment import groups, play_seeds, prepare
from fkjax.images import Streamed
from fkjax.journal import Journal
from fkjax.progress import Progress
from fkjax.reading import plain_errors
from fkjax.reporting import FIGURES, RunFolder, plain

PACKAGES = ("fkjax", "jax", "jaxlib", "flax", "optax", "numpy")


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
        config: what to run, such as `fkjax.config.defaults("mnist")`.

    Returns:
        The records of all rounds, as they are in rounds.jsonl.

    Raises:
        UserError: if the configuration, the data or the output folder is at fault.
    """
    check(config)
    _meet(config)
    with jax.enable_x64(config.precision == "float64"):
        return _run(config)


def _run(config: Config) -> list[dict[str, Any]]:
    dataset = datasets.load(
        config.dataset, data_dir=config.data_dir, image_size=config.image_size
    )
    experiment = prepare(config, dataset)
    experiment.parts(config.seed)  # a pool that cannot be: told before anything is made
    total = config.seeds * (1 + len(experiment.strategies) * config.rounds)
    with (
        _opened(config, dataset) as folder,
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


@contextlib.contextmanager
def _opened(config: Config, dataset: datasets.Dataset) -> Iterator[RunFolder | None]:
    """The folder to write to, locked: new, cleared, or of this run's beginning.

    None of a process that does not write.
    """
    if config.output_dir is None or not is_first():
        yield None
        return
    wanted = plain(_identity(config) | {"data": _fingerprint(dataset)})
    is_there = RunFolder.holds_run(config.output_dir)
    folder = (RunFolder.open if is_there else RunFolder.create)(config.output_dir)
    with folder.locked():
        if is_there and config.overwrite:
            folder.clear()
        elif is_there:
            _refuse_other(folder, wanted)
        if config.overwrite or not is_there:
            folder.write_config(wanted)
        yield folder


_ELSEWHERE = ("output_dir", "data_dir", "overwrite")
_ELSEWHERE += ("distributed", "coordinator", "num_processes", "process_id")
"""Settings that may differ when a run goes on: where things are, not what they are."""


def _identity(config: Config) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return dataclasses.asdict(config) | {"versions": versions}


def _fingerprint(dataset: datasets.Dataset) -> str:
    """SHA-256 of the labels, and of images that are in memory."""
    sha = hashlib.sha256()
    for array in dataset[1:5]:
        if not isinstance(array, Streamed):
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _refuse_other(folder: RunFolder, wanted: dict[str, Any]) -> None:
    """Refuses to go on with what another configuration, data or version began."""
    was = folder.read_config()
    differences = [
        f"{name} was {was.get(name)!r} and is {wanted.get(name)!r}"
        for name in sorted({*was, *wanted} - set(_ELSEWHERE))
        if was.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"{folder.path} holds another run ({'; '.join(differences)}): give the "
            "same settings to go on with it, choose another folder, or add --overwrite "
            "to delete that run."
        )


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


if __name__ == "__main__":
    sys.exit(main())
