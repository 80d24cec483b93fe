"""Opening the folder of a run: a new one, or one to resume."""

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fkjax.base import UserError
from fkjax.experiment.config import Config
from fkjax.files.writing import plain
from fkjax.parallel.processes import is_first
from fkjax.runs.folder import RunFolder
from fkjax.runs.past_run import with_protocol

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
            _refuse_other(folder, wanted)
        if config.overwrite or not is_there:
            folder.write_config(wanted)
        yield folder


_ELSEWHERE = ("output_dir", "data_dir", "follow_links", "overwrite")
_ELSEWHERE += ("distributed", "coordinator", "num_processes", "process_id")
"""Settings that may differ when a run is resumed: locations and processes."""

_OF_LABELING = ("images", "labels", "new_classes", "label_studio", "keep_copies")
"""Settings that may also differ when a labeling session is resumed."""

RECORDED = ("budget", "rounds")
"""Settings that may differ, too, and whose changes a session records."""

LABELING_SETTINGS = ("oracle", *_OF_LABELING)
"""Settings that are only used if a person labels."""


def _identity(config: Config) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    settings = dataclasses.asdict(config)
    if config.oracle == "dataset":
        settings = {k: v for k, v in settings.items() if k not in LABELING_SETTINGS}
    return settings | {"versions": versions}


def _refuse_other(folder: RunFolder, wanted: dict[str, Any]) -> None:
    """Raises an error if a folder's run has other settings, data or versions."""
    found = _differences(folder.read_config(), wanted, may_differ=_ELSEWHERE)
    _raise_any(folder, found, "or add --overwrite to delete that run")


def require_same_session(
    folder: RunFolder, config: Config, changed: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Checks that a labeling session can be continued with the given settings.

    Args:
        folder: folder of the session.
        config: settings to continue with.
        changed: values of settings that have changed since the session began.

    Returns:
        The old and the new value of each of the settings `RECORDED` that differs.

    Raises:
        UserError: if another setting or a version of a package differs, so that past
            rounds could not be compared with those to come.
    """
    began, wanted = folder.read_config(), plain(_identity(config))
    was = {**began, **changed}
    may_differ = (*_ELSEWHERE, *_OF_LABELING, *RECORDED, *(was.keys() - wanted.keys()))
    # A person's answers are never deleted.
    _raise_any(folder, _differences(was, wanted, may_differ=may_differ), "")
    return {
        name: (was.get(name), wanted[name])
        for name in RECORDED
        if was.get(name) != wanted[name]
    }


def _differences(
    was: Mapping[str, Any], wanted: Mapping[str, Any], *, may_differ: Sequence[str]
) -> list[str]:
    found = []
    was = with_protocol(was)
    for name in sorted({*was, *wanted} - {*may_differ}):
        old, new = was.get(name), wanted.get(name)
        if old == new:
            continue
        if name == "versions" and isinstance(old, dict) and isinstance(new, dict):
            found += [
                f"the version of {package} was {old.get(package)} and is now "
                f"{new.get(package)}"
                for package in sorted({*old, *new})
                if old.get(package) != new.get(package)
            ]
        elif name == "data":
            found.append("the images or labels of the dataset were others")
        elif name == "deployment_shares" and old and new:
            found.append("the class shares in the file of --prior-correction differed")
        elif name == "deployment_shares":
            continue  # --prior-correction itself differs
        else:
            flag = "strategy" if wanted.get("oracle") == "file" else "strategies"
            flag = flag if name == "strategies" else name.replace("_", "-")
            found.append(f"--{flag} was {_shown(old)} and is now {_shown(new)}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "not given"
    return "not given" if value is None else str(value)


def _raise_any(folder: RunFolder, found: Sequence[str], otherwise: str) -> None:
    if found:
        same = "settings, versions and data" if len(found) > 1 else "one"
        more = f", {otherwise}" if otherwise else ""
        raise UserError(
            f"{folder.path} contains another run ({'; '.join(found)}): give the same "
            f"{same} to resume it, or choose another folder{more}"
        )
