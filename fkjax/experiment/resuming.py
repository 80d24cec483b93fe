"""Opening the folder of a run: a new one, or one to resume."""

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
    """Opens the output folder of a run and locks it.

    The folder is created if it does not exist, and cleared if `config.overwrite` is
    set; otherwise the run in it is resumed.

    Args:
        config: settings of the run.
        data: properties of the data that must be equal when the run is resumed.

    Yields:
        The folder; None if the run has no output folder or this process does not
        write.

    Raises:
        UserError: if the folder contains a run with other settings, data or versions.
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


_ELSEWHERE = ("output_dir", "data_dir", "follow_links", "overwrite")
_ELSEWHERE += ("distributed", "coordinator", "num_processes", "process_id")
"""Settings that may differ when a run is resumed: locations and processes."""

_HOW_LONG = ("images", "labels", "new_classes", "label_studio", "rounds")
"""Settings that may also differ when a labeling session is resumed."""

LABELING_SETTINGS = ("oracle", "images", "labels", "new_classes", "label_studio")
"""Settings that are only used if a person labels."""


def _identity(config: Config) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    settings = dataclasses.asdict(config)
    if config.oracle == "dataset":
        settings = {k: v for k, v in settings.items() if k not in LABELING_SETTINGS}
    return settings | {"versions": versions}


def _refuse_other(folder: RunFolder, wanted: dict[str, Any], config: Config) -> None:
    """Raises an error if a folder's run has other settings, data or versions."""
    was, may_differ = folder.read_config(), {*_ELSEWHERE}
    delete = ", or add --overwrite to delete that run"
    if config.oracle == "file":
        may_differ |= {*_HOW_LONG}
        delete = ""  # a person's answers are never deleted
    differences = [
        f"{name} was {was.get(name)!r} and is now {wanted.get(name)!r}"
        for name in sorted({*was, *wanted} - may_differ)
        if was.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"{folder.path} contains another run ({'; '.join(differences)}): give the "
            f"same settings to resume it, or choose another folder{delete}"
        )
