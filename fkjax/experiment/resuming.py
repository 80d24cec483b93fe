"""The folder of a run: new, or one to resume."""

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Iterator
from typing import Any

from fkjax.base import UserError
from fkjax.experiment.config import Config
from fkjax.files.writing import plain
from fkjax.parallel.processes import is_first
from fkjax.runs.folder import RunFolder

PACKAGES = ("fkjax", "jax", "jaxlib", "flax", "optax", "numpy")


@contextlib.contextmanager
def open_run(config: Config, data: dict[str, Any]) -> Iterator[RunFolder | None]:
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
