"""Ids read from the cells of a CSV file, found among those of a pool."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fkjax.base import UserError
from fkjax.files.matching import composed
from fkjax.files.spreadsheet import Cell, as_in_cell


def positions_of_cells(
    labeled: Sequence[Any], positions: Sequence[int | None], ids: np.ndarray
) -> list[int | None]:
    """Finds the ids that were written to cells in which they look otherwise.

    These are ids with line breaks, surrounding spaces or an apostrophe before an equals
    sign, and ids whose Unicode normal form an editor changed.

    Args:
        labeled: ids of the labeled examples; those from a file are a `Cell`.
        positions: position of the id that is equal to each of them, or None.
        ids: ids of all examples. Length N.

    Returns:
        The positions, those of cells corrected; None where there is no such id.

    Raises:
        UserError: if a cell can be that of several ids.
    """
    found = list(positions)
    cells = [i for i, given in enumerate(labeled) if isinstance(given, Cell)]
    if not cells or ids.dtype.kind in "biuf":  # numbers look the same
        return found
    texts = [str(i) for i in ids.tolist()]
    for form in (str, composed):
        at: dict[str, list[int]] = {form(labeled[i]): [] for i in cells}
        for position, text in enumerate(texts):
            key = form(as_in_cell(text))
            if key in at:
                at[key].append(position)
        for i in cells:
            hits = at[form(labeled[i])]
            if len(hits) > 1:
                first, second = (repr(texts[position]) for position in hits[:2])
                raise UserError(
                    f"the labeled example {labeled[i]} can be {first} or {second} of "
                    "the pool, which look the same in a CSV file: rename one"
                )
            found[i] = hits[0] if hits else found[i]
        cells = [i for i in cells if found[i] is None]
        if not cells:
            break
    return found


def nearest(example: Any, ids: Any) -> str:
    """Returns a hint at the id that differs in case or in leading zeros, or ""."""
    if str(example) == "":
        return " (it is empty)"
    if isinstance(ids, range):
        return f", whose ids are 0 to {len(ids) - 1}"
    near = [text for text in map(str, ids.tolist()) if _rough(text) == _rough(example)]
    return f" (did you mean {near[0]}?)" if len(near) == 1 else ""


def _rough(example: Any) -> str:
    return composed(str(example)).lower().lstrip("0")
