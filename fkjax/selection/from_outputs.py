"""Problems made from the outputs of any network: features and logits.

They suffice to compute the Fisher vectors of the last layer exactly; see
`fkjax.fisher.kernel.last_layer`. The strategies in `SUFFICE` need nothing else. The
others need the network: MC-dropout and VAAL run or train one, and perturbed copies are
new inputs.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Examples, UserError, Variables
from fkjax.data.column_files import as_table
from fkjax.data.column_types import is_number
from fkjax.data.columns import Table, Tell, images_of, take_rows
from fkjax.fisher.kernel import last_layer
from fkjax.models.precomputed import FEATURES, LOGITS, from_outputs
from fkjax.selection.lacking import read_labels
from fkjax.selection.probabilities import (
    OUTPUTS,
    contain_probabilities,
    logs,
    with_finite_zeros,
)
from fkjax.selection.problem import Problem, make_problem

SUFFICE = (
    *("random", "margin", "least_confidence", "feature_match"),
    *("fisher_argmax", "fisher_nearest", "fisher_nearest_joint"),
    *("fisher_ratio", "bait", "logdet_mi", "vtl", "max_det", "fisher_herding"),
    *("class_need_margin", "class_need_ratio", "core_set", "lcmd", "badge"),
    *("flqmi", "max_herding"),
)
"""The names of the strategies for which features and logits suffice."""

_AT_ONCE = 1 << 24  # similarities to validation examples in a batch


def problem_of_outputs(
    pool: Any,
    validation: Any,
    *,
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    keep_copies: bool = False,
    tell: Tell | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> Problem:
    """Makes a problem from the features and logits of the examples.

    Args:
        pool: mapping of arrays, or files as in
            `fkjax.data.column_files.read_columns`, with features [N, d], logits, or
            log_probs or probabilities in their place [N, C], and optionally ids [N],
            which are the positions by default.
        validation: the same for the validation set, with labels [M]: numbers of
            classes, from 0, in the order of the logits, or names of classes. If the
            names are numbers, labels are names. Labels of classes for which there are
            no logits are taken as in `fkjax.selection.lacking`.
        labeled: ids of the pool's examples that are already labeled, or a mask.
            Shape [N] bool.
        classes: names of the classes, in the order of the logits; then, names of
            classes of the validation set for which there are no logits.
        keep_copies: whether all exact copies can be queried, instead of one of each.
        tell: function called when parts of a large pool have been read.
        warn: function called with a message if the logits are taken as probabilities,
            which they are if all are 0 or more and add up to 1 for each example, or if
            exact copies in the validation set have different labels.

    Returns:
        A problem for the strategies named in `SUFFICE`.

    Raises:
        UserError: if an array is missing or has a wrong shape, or a label or an id is
            unknown.
    """
    pool = as_table(pool, needed=(FEATURES,), any_of=OUTPUTS, what="pool")
    validation = as_table(
        validation, needed=(FEATURES, "labels"), any_of=OUTPUTS, what="validation set"
    )
    parts = [(pool, "pool"), (validation, "validation set")]
    outputs = [
        next(name for name in OUTPUTS if name in part.columns) for part, _ in parts
    ]
    for (part, what), name in zip(parts, outputs, strict=True):
        _check(part, what, name)
    for of_pool, of_validation in ((FEATURES, FEATURES), outputs):
        wide = pool[of_pool].shape[1], validation[of_validation].shape[1]
        if wide[0] != wide[1]:
            raise UserError(
                f"the pool has {wide[0]} {of_pool} per example and the validation set "
                f"{wide[1]}: compute both with the same network"
            )
    rows, known = (
        _Rows(part, what, name, is_probabilities)
        for (part, what), name, is_probabilities in zip(
            parts, outputs, contain_probabilities(parts, outputs, warn), strict=True
        )
    )
    num_features, num_outputs = rows.widths
    labels = read_labels(np.asarray(validation["labels"][:]), classes, num_outputs)
    return make_problem(
        from_outputs(num_features, num_outputs, labels.num_lacking),
        Variables({}),
        (FEATURES, LOGITS),
        pool,
        rows.as_images(tell),
        validation,
        known.as_images(None, is_small=True),
        labeled=labeled,
        labels=labels,
        kernel=last_layer(FEATURES, LOGITS, len(labels.classes)),
        batch_size=int(np.clip(_AT_ONCE // len(validation), 256, 8192)),
        keep_copies=keep_copies,
        warn=warn,
    )


def _check(part: Table, what: str, outputs: str) -> None:
    if not len(part):
        raise UserError(f"the {what} has no example (0 rows): give one or more")
    for name in (FEATURES, outputs):
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
    if part[outputs].shape[1] < 2:
        raise UserError(
            f"the {outputs} of the {what} must be of 2 or more classes, got 1: for two "
            "classes with one logit, give 0 and that logit"
        )


class _Rows:
    """Features and logits side by side, as images of 1 x 1 pixels."""

    def __init__(self, part: Table, what: str, outputs: str, is_probabilities: bool):
        self._columns, self._num = (part[FEATURES], part[outputs]), len(part)
        self._what, self._is_probabilities = what, is_probabilities
        self.widths = tuple(column.shape[1] for column in self._columns)

    def as_images(self, tell: Tell | None, *, is_small: bool = False) -> Examples:
        shape = (1, 1, sum(self.widths))
        return images_of(self._read, self._num, shape, tell=tell, is_small=is_small)

    def _read(self, ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), 1, 1, sum(self.widths)), np.float32)
        features, outputs = (take_rows(column, ids) for column in self._columns)
        rows[:, 0, 0, : self.widths[0]] = features
        rows[:, 0, 0, self.widths[0] :] = (
            logs(outputs, self._what)
            if self._is_probabilities
            else with_finite_zeros(outputs)
        )
        return rows
