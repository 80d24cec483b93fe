"""Ids of examples, and the labeled examples among them."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.selection.arguments import is_missing, plain, whole_or_none
from fkjax.selection.id_cells import nearest, positions_of_cells


def checked_ids(ids: Any, what: str) -> Any:
    """Checks that no id is missing.

    Args:
        ids: ids of all examples, a range or an array. Length N.
        what: name of the set in messages, such as "pool".

    Returns:
        The ids; text as an array of NumPy's `str_`.

    Raises:
        UserError: if an id is missing, as NaN or an empty cell.
    """
    if isinstance(ids, range) or ids.dtype.kind not in "OTfMmS":
        return ids
    if ids.dtype.kind == "S":
        ids = np.array([plain(i) for i in ids.tolist()])
    for row, example in enumerate(ids.tolist()):
        if is_missing(example):
            raise UserError(
                f"the id in row {row} of the {what} is missing ({example}): fill it, "
                "or leave the ids out to use positions"
            )
    return np.array(ids.tolist(), str) if ids.dtype.kind == "T" else ids


def is_unlabeled(ids: Any, labeled: Iterable[Any]) -> np.ndarray:
    """Returns which examples are not labeled.

    Args:
        ids: ids of all examples from `checked_ids`. Length N.
        labeled: ids of the labeled examples, which may be text read from a file, or a
            mask. Shape [N] bool.

    Returns:
        A mask of the unlabeled examples. Shape [N] bool.

    Raises:
        UserError: if a labeled id is not in the pool, or ids are not distinct.
    """
    given = _listed(labeled)
    is_range, text = isinstance(ids, range), np.zeros(0, str)
    if not is_range:
        is_plain = ids.dtype.kind in "biuU"
        text = ids if is_plain and not given else _texts(ids)
        values, counts = np.unique(ids if is_plain else text, return_counts=True)
        if len(values) < len(ids):
            raise UserError(
                "the ids of the pool must be distinct, but one occurs twice: "
                f"{values[counts.argmax()]}"
            )
    free = np.ones(len(ids), bool)
    if any(isinstance(example, bool) for example in given):
        if len(given) != len(ids) or not all(isinstance(i, bool) for i in given):
            raise UserError(
                f"labeled must be ids, or True or False for each of the {len(ids)} "
                f"examples of the pool, got {len(given)} values with True or False"
            )
        return ~np.array(given, bool)
    if is_range:
        positions = [whole_or_none(example) for example in given]
        positions = [
            i if i is not None and 0 <= i < len(ids) else None for i in positions
        ]
    else:
        # Text is compared with numbers, and numbers with text, but not "7" with "007".
        are_text = ids.dtype.kind not in "biuf"
        wholes = [
            None if are_text and isinstance(i, str) else whole_or_none(i) for i in given
        ]
        wanted = [
            (str(i), str(i if whole is None else whole))
            for i, whole in zip(given, wholes, strict=True)
        ]
        at = np.flatnonzero(np.isin(text, [name for pair in wanted for name in pair]))
        found = dict(zip(text[at].tolist(), at.tolist(), strict=True))
        positions = [found.get(name, found.get(number)) for name, number in wanted]
        positions = positions_of_cells(given, positions, ids)
    for example, position in zip(given, positions, strict=True):
        if position is None:
            raise UserError(
                f"the labeled example {example} is not in the pool"
                f"{nearest(example, ids)}: give ids as in the pool"
            )
        free[position] = False
    return free


def _listed(labeled: Any) -> list[Any]:
    shape = getattr(labeled, "shape", (0,))
    if len(shape) == 2 and shape[1] == 1:
        labeled, shape = np.asarray(labeled)[:, 0], shape[:1]
    if isinstance(labeled, (str, bytes)) or len(shape) != 1:
        raise UserError(
            "labeled must be a list of ids, got "
            + (repr(labeled) if isinstance(labeled, (str, bytes)) else f"shape {shape}")
        )
    try:
        return [plain(example) for example in labeled]
    except TypeError as error:
        raise UserError(
            f"labeled must be a list of ids, got {labeled!r:.100}"
        ) from error


def _texts(ids: np.ndarray) -> np.ndarray:
    """Returns ids as text, as they are written to files. Shape [N] str."""
    if ids.dtype.kind in "OM":
        return np.array([str(plain(i)) for i in ids])
    if ids.dtype.kind == "f":
        # A column of numbers that once had an empty cell is of floats.
        wholes = [whole_or_none(i) for i in ids.tolist()]
        return np.array(
            [
                str(i if w is None else w)
                for i, w in zip(ids.tolist(), wholes, strict=True)
            ]
        )
    return ids.astype(str)
