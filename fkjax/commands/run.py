"""`python -m fkjax.run`: strategies compared on a biased pool, from the command line.

Parses, opens the folder of the run, plays what is not in it yet, and draws.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import rich.console

from fkjax.base import UserError, printable
from fkjax.data import datasets
from fkjax.data.labeled_folder import list_images
from fkjax.data.reading import plain_errors
from fkjax.experiment.config import Config, check, parse
from fkjax.experiment.play import groups, play_seeds, prepare
from fkjax.experiment.progress import Progress
from fkjax.labeling.loop import play_labeling
from fkjax.parallel.images import Streamed
from fkjax.parallel.processes import agreed, connect, is_first, stopping_together
from fkjax.report import figures, tables
from fkjax.runs.folder import FIGURES, RunFolder, plain
from fkjax.runs.journal import Journal

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
        config: what to run, such as `fkjax.experiment.config.defaults("mnist")`.

    Returns:
        The records of all rounds, as they are in rounds.jsonl.

    Raises:
        UserError: if the configuration, the data or the output folder is at fault.
    """
    check(config)
    _meet(config)
    with jax.enable_x64(config.precision == "float64"):
        return _run(config) if config.oracle == "dataset" else _label(config)


def _run(config: Config) -> list[dict[str, Any]]:
    dataset = datasets.load(
        config.dataset, data_dir=config.data_dir, image_size=config.image_size
    )
    experiment = prepare(config, dataset)
    experiment.parts(config.seed)  # a pool that cannot be: told before anything is made
    total = config.seeds * (1 + len(experiment.strategies) * config.rounds)
    with (
        _opened(config, {"data": _fingerprint(dataset)}) as folder,
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


def _label(config: Config) -> list[dict[str, Any]]:
    """Asks a person: does what can be done, and says what it waits for."""
    assert config.images and config.labels and config.output_dir  # by `check`
    home, output = map(os.path.realpath, (config.images, config.output_dir))
    if os.path.commonpath([home, output]) == home:
        raise UserError(
            f"--output-dir {config.output_dir} is in --images {config.images}, where "
            "its figures would be taken for images: choose another."
        )
    listing = list_images(config.images, config.labels)
    data = json.dumps(
        [listing.names, listing.sizes, *map(np.ndarray.tolist, listing[3:8])]
    )
    known = {
        "data": hashlib.sha256(data.encode()).hexdigest(),
        "known_classes": listing.classes,
        "num_pool": len(listing.pool),
        "num_validation": len(listing.validation),
    }
    with (
        _opened(config, known) as folder,
        Progress(len(listing.names) + 3) as progress,
    ):
        assert folder is not None
        outcome = play_labeling(config, listing, folder, progress)
    if outcome.records:
        rich.console.Console().print(tables.labeling_table(outcome.records))
    print(printable(outcome.sentence))
    return outcome.records


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
def _opened(config: Config, data: dict[str, Any]) -> Iterator[RunFolder | None]:
    """The folder to write to, locked: new, cleared, or of this run's beginning.

    None of a process that does not write.

    Args:
        config: of the run.
        data: what must be the same of its data when it goes on.
    """
    if config.output_dir is None or not is_first():
        yield None
        return
    wanted = plain(_identity(config) | data)
    is_there = RunFolder.holds_run(config.output_dir)
    folder = (RunFolder.open if is_there else RunFolder.create)(config.output_dir)
    with folder.locked():
        if is_there and config.overwrite:
            folder.clear()
        elif is_there:
            _refuse_other(folder, wanted, config)
        if config.overwrite or not is_there:
            folder.write_config(wanted)
        yield folder


_ELSEWHERE = ("output_dir", "data_dir", "overwrite")
_ELSEWHERE += ("distributed", "coordinator", "num_processes", "process_id")
"""Settings that may differ when a run goes on: where things are, not what they are."""

_HOW_LONG = ("images", "labels", "new_classes", "label_studio", "rounds")
"""Of a labelling too: how long a person goes on, and how they are asked."""

_OF_A_PERSON = ("oracle", "images", "labels", "new_classes", "label_studio")
"""What says nothing where nobody is asked."""


def _identity(config: Config) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    settings = dataclasses.asdict(config)
    if config.oracle == "dataset":
        settings = {k: v for k, v in settings.items() if k not in _OF_A_PERSON}
    return settings | {"versions": versions}


def _fingerprint(dataset: datasets.Dataset) -> str:
    """SHA-256 of the labels, and of images that are in memory."""
    sha = hashlib.sha256()
    for array in dataset[1:5]:
        if not isinstance(array, Streamed):
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _refuse_other(folder: RunFolder, wanted: dict[str, Any], config: Config) -> None:
    """Refuses to go on with what another configuration, data or version began."""
    was, may_differ = folder.read_config(), {*_ELSEWHERE}
    delete = ", or add --overwrite to delete that run"
    if config.oracle == "file":
        may_differ |= {*_HOW_LONG}
        delete = ""  # a person's answers are not deleted
    differences = [
        f"{name} was {was.get(name)!r} and is {wanted.get(name)!r}"
        for name in sorted({*was, *wanted} - may_differ)
        if was.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"{folder.path} holds another run ({'; '.join(differences)}): give the "
            f"same settings to go on with it, choose another folder{delete}."
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
