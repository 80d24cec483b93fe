"""What to label next from what any network made of the pool: features and logits.

The last layer's Fisher vectors are exact from these alone; see
`fkjax.fisher.kernel.last_layer`. So `SUFFICE` can be asked. The others need the
network: MC-dropout and VAAL run or train one, and perturbed copies are new images.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Examples, UserError, Variables
from fkjax.data.column_files import as_table
from fkjax.data.columns import Table, Tell, images_of, take_rows
from fkjax.fisher.kernel import last_layer
from fkjax.models.precomputed import FEATURES, LOGITS, from_outputs
from fkjax.selection.problem import Problem, make_problem

SUFFICE = (
    *("random", "margin", "least_confidence", "feature_match"),
    *("fisher_argmax", "fisher_nearest", "fisher_nearest_joint"),
)
"""The strategies for which features and logits suffice."""

_AT_ONCE = 1 << 24  # similarities to validation examples that a batch holds


def problem_of_outputs(
    pool: Any,
    validation: Any,
    *,
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    tell: Tell | None = None,
) -> Problem:
    """A pool of which features and logits are known.

    Args:
        pool: a mapping of arrays, or files as of
            `fkjax.data.column_files.read_columns`, with features [N, d], logits [N, C],
            or log-probabilities in their place, and ids [N] if they are to be called
            anything but their positions.
        validation: likewise, and with labels [M]: classes' numbers from 0 on, in the
            order of the logits, or their names.
        labeled: the ids of the pool's examples that have a label already.
        classes: the names of the classes, in the order of the logits.
        tell: is told of what is read of a large pool.

    Returns:
        The problem, of whose `fkjax.acquisition.STRATEGIES` the `SUFFICE` may be asked.

    Raises:
        UserError: if an array is missing or of a wrong shape, or a label or an id is
            unknown.
    """
    pool = as_table(pool, needed=(FEATURES, LOGITS), what="pool")
    validation = as_table(
        validation, needed=(FEATURES, LOGITS, "labels"), what="validation set"
    )
    for part, what in ((pool, "pool"), (validation, "validation set")):
        _check(part, what)
    for name in (FEATURES, LOGITS):
        wide = pool[name].shape[1], validation[name].shape[1]
        if wide[0] != wide[1]:
            raise UserError(
                f"the pool has {wide[0]} {name} an example and the validation set "
                f"{wide[1]}: take both from one network"
            )
    num_features, num_classes = pool[FEATURES].shape[1], pool[LOGITS].shape[1]
    return make_problem(
        from_outputs(num_features, num_classes),
        Variables({}),
        (FEATURES, LOGITS),
        pool,
        _rows(pool, tell),
        validation,
        _rows(validation, None, is_small=True),
        labeled=labeled,
        classes=classes,
        kernel=last_layer(FEATURES, LOGITS, num_classes),
        batch_size=int(np.clip(_AT_ONCE // len(validation), 256, 8192)),
    )


def _check(part: Table, what: str) -> None:
    for name in (FEATURES, LOGITS):
        column = part[name]
        if len(column.shape) != 2 or 0 in column.shape:
            raise UserError(
                f"the {what}'s {name} must have shape [examples, numbers], none of "
                f"them 0, got {column.shape}"
            )
        if not np.issubdtype(column.dtype, np.floating) and not np.issubdtype(
            column.dtype, np.integer
        ):
            raise UserError(f"the {what}'s {name} must be numbers, got {column.dtype}")
    if part[LOGITS].shape[1] < 2:
        raise UserError(f"the {what}'s logits must be of 2 or more classes, got 1")


def _rows(part: Table, tell: Tell | None, *, is_small: bool = False) -> Examples:
    """Features and logits side by side, as images of 1 x 1 pixels."""
    columns = part[FEATURES], part[LOGITS]
    width = sum(column.shape[1] for column in columns)

    def read(ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), 1, 1, width), np.float32)
        at = columns[0].shape[1]
        rows[:, 0, 0, :at] = take_rows(columns[0], ids)
        rows[:, 0, 0, at:] = take_rows(columns[1], ids)
        return rows

    return images_of(read, len(part), (1, 1, width), tell=tell, is_small=is_small)
