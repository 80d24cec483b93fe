"""Checkpoints of arrays, verified by checksums.

Orbax writes a checkpoint into a temporary folder, which it renames when it is complete.
Then the SHA-256 of each file is written to a file beside it. A checkpoint without this
file is unfinished, and one that differs from it is damaged.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fkjax.base import UserError
from fkjax.files.opening import explained, open_file
from fkjax.files.writing import replace_file


class DamagedError(Exception):
    """Raised if a checkpoint exists but differs from what was written."""


def save(path: Path, state: Any) -> None:
    """Writes a checkpoint, replacing an existing one.

    Args:
        path: path of the checkpoint, whose parent folder is created if necessary.
        state: nested dicts of arrays.

    Raises:
        UserError: if the disk is full or the checkpoint cannot be written.
    """
    path = path.absolute()
    remove(path)
    state = jax.tree.map(np.asarray, state)
    with explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(path.parent).free
        if free < 1.2 * size + 2**18:  # checked first: errors of Orbax are long
            raise OSError(None, f"only {free / 1e6:.1f} MB are free")
    try:
        with _quiet():
            _checkpointer().save(path, state)
    except (OSError, ValueError) as error:
        raise UserError(
            f"could not write the checkpoint {path}: free some space, fix the "
            "permissions or choose another folder"
        ) from error
    sums = json.dumps(_checksums(path), indent=2, sort_keys=True)
    replace_file(_sums_path(path), sums.encode() + b"\n")


def restore(path: Path) -> Any | None:
    """Reads a checkpoint written by `save`.

    Args:
        path: path of the checkpoint.

    Returns:
        The state, as nested dicts of NumPy arrays; None if there is no such checkpoint.

    Raises:
        DamagedError: if the checkpoint differs from what `save` wrote; the message says
            how.
    """
    path = path.absolute()
    if not _sums_path(path).exists():
        return None
    try:
        with open_file(_sums_path(path)) as file:
            sums, found = json.load(file), _checksums(path)
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError("its checksums cannot be read") from error
    if not isinstance(sums, dict):
        raise DamagedError("its checksums cannot be read")
    for name in sorted({*sums, *found}):
        if name not in found:
            raise DamagedError(f"{name} is missing")
        if found[name] != sums.get(name):
            raise DamagedError(f"the checksum of {name} does not match")
    try:
        with _quiet():
            return _checkpointer().restore(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedError("it cannot be read by Orbax") from error


def read_tree(path: Path) -> Any:
    """Reads a checkpoint of arrays that any program wrote with Orbax.

    Args:
        path: folder of the checkpoint.

    Returns:
        Nested dicts and lists of NumPy arrays, regardless of the device that they were
        saved on.

    Raises:
        UserError: if there is no such checkpoint, or Orbax cannot read it.
    """
    path = path.absolute()
    if not path.is_dir():
        raise UserError(
            f"there is no checkpoint {path}: give a folder written by Orbax"
        )
    if not (path / "_METADATA").exists():
        inside = sorted(found.parent for found in path.glob("**/_METADATA"))
        held = ", ".join(str(folder.relative_to(path)) for folder in inside[:5])
        raise UserError(
            f"{path} is not a checkpoint of arrays by Orbax, which has a file "
            "_METADATA: " + (f"give {held} in it" if held else "give one that is")
        )
    import orbax.checkpoint as ocp

    def is_leaf(node: Any) -> bool:
        return not isinstance(node, dict | list | tuple)

    checkpointer = _checkpointer()
    try:
        with _quiet():
            metadata = checkpointer.metadata(path)
            metadata = getattr(metadata, "item_metadata", metadata)
            metadata = getattr(metadata, "tree", metadata)
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                metadata,
                is_leaf=is_leaf,
            )
            return checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
    except Exception as error:  # Orbax may raise any error for other programs' files
        raise UserError(
            f"the checkpoint {path} cannot be read by Orbax: it is damaged or has "
            "other contents than arrays"
        ) from error


def remove(path: Path) -> None:
    """Removes a checkpoint, or a folder of checkpoints, if it exists."""
    with explained("remove", path):
        _sums_path(path).unlink(missing_ok=True)  # first: it marks a checkpoint
        if path.exists():
            shutil.rmtree(path)


def _sums_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _checksums(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _checkpointer() -> Any:
    """Returns a checkpointer of this process, the only one that reads and writes."""
    import orbax.checkpoint as ocp  # takes half a second, so only if it is used

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix="fkjax"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the log of Orbax, whose errors are reported in a sentence."""
    logger = logging.getLogger("absl")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was
