"""Problems made from the outputs of any network: features and logits.

They suffice to compute the Fisher vectors of the last layer exactly; see
`fkjax.fisher.kernel.last_layer`. The strategies in `SUFFICE` need nothing else. The
others need the network: MC-dropout and VAAL run or train one, and perturbed copies are
new inputs.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Examples, UserError, Variables
from fkjax.data.column_files import as_table
from fkjax.data.column_types import is_number
from fkjax.data.columns import Table, Tell, images_of, take_rows
from fkjax.fisher.kernel import last_layer
from fkjax.models.precomputed import FEATURES, LOGITS, from_outputs
from fkjax.selection.problem import Problem, make_problem

SUFFICE = (
    *("random", "margin", "least_confidence", "feature_match"),
    *("fisher_argmax", "fisher_nearest", "fisher_nearest_joint"),
)
"""The names of the strategies for which features and logits suffice."""

_AT_ONCE = 1 << 24  # similarities to validation examples in a batch


def problem_of_outputs(
    pool: Any,
    validation: Any,
    *,
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    tell: Tell | None = None,
) -> Problem:
    """Makes a problem from the features and logits of the examples.

    Args:
        pool: mapping of arrays, or files as in
            `fkjax.data.column_files.read_columns`, with features [N, d], logits [N, C]
            or log-probabilities in their place, and optionally ids [N], which are the
            positions by default.
        validation: the same for the validation set, with labels [M]: numbers of
            classes, from 0, in the order of the logits, or names of classes.
        labeled: ids of the pool's examples that are already labeled.
        classes: names of the classes, in the order of the logits.
        tell: function called when parts of a large pool have been read.

    Returns:
        A problem for the strategies named in `SUFFICE`.

    Raises:
        UserError: if an array is missing or has a wrong shape, or a label or an id is
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
                f"the pool has {wide[0]} {name} per example and the validation set "
                f"{wide[1]}: compute both with the same network"
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
                f"the {name} of the {what} must have shape [examples, numbers] without "
                f"a 0, got {column.shape}"
            )
        if not is_number(column.dtype):
            raise UserError(
                f"the {name} of the {what} must be numbers, got {column.dtype}"
            )
    if part[LOGITS].shape[1] < 2:
        raise UserError(f"the logits of the {what} must be of 2 or more classes, got 1")


def _rows(part: Table, tell: Tell | None, *, is_small: bool = False) -> Examples:
    """Puts features and logits side by side, as images of 1 x 1 pixels."""
    columns = part[FEATURES], part[LOGITS]
    width = sum(column.shape[1] for column in columns)

    def read(ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), 1, 1, width), np.float32)
        at = columns[0].shape[1]
        rows[:, 0, 0, :at] = take_rows(columns[0], ids)
        rows[:, 0, 0, at:] = take_rows(columns[1], ids)
        return rows

    return images_of(read, len(part), (1, 1, width), tell=tell, is_small=is_small)
