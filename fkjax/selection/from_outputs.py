"""What to label next from what any network made of the pool: features and logits.

The last layer's Fisher vectors are exact from these alone; see
`fkjax.fisher.kernel.last_layer`. So `SUFFICE` can be asked. The others need the
network: MC-dropout and VAAL run or train one, and perturbed copies are new images.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Images, UserError, Variables
from fkjax.data.columns import Columns, Tell, as_columns, images_of, take_rows
from fkjax.fisher.kernel import last_layer
from fkjax.models.precomputed import FEATURES, LOGITS, from_outputs
from fkjax.selection.choose import Problem

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
        pool: a mapping of arrays, or files as of `fkjax.data.columns.read_columns`,
            with features [N, d], logits [N, C], or log-probabilities in their place,
            and ids [N] if they are to be called anything but their positions.
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
    pool = as_columns(pool, needed=(FEATURES, LOGITS), what="pool")
    validation = as_columns(
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
    names = class_names(classes, num_classes)
    labels = class_numbers(np.asarray(validation["labels"][:]), names)
    num_validation = len(labels)
    ids = ids_of(pool, len(pool[FEATURES]))
    return Problem(
        from_outputs(num_features, num_classes),
        Variables({}),
        (FEATURES, LOGITS),
        _rows(pool, tell),
        ids,
        is_unlabeled(ids, labeled),
        _rows(validation, None, is_small=True),
        ids_of(validation, num_validation),
        labels,
        names,
        last_layer(FEATURES, LOGITS, num_classes),
        int(np.clip(_AT_ONCE // num_validation, 256, 8192)),
        is_trained=True,
    )


def _check(part: Columns, what: str) -> None:
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
    require_equal_lengths(part, what)
    if part[LOGITS].shape[1] < 2:
        raise UserError(f"the {what}'s logits must be of 2 or more classes, got 1")


def require_equal_lengths(part: Columns, what: str) -> None:
    """Refuses arrays that have not one row for each example.

    Raises:
        UserError: with their lengths.
    """
    lengths = {name: len(column) for name, column in part.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise UserError(f"the {what}'s arrays must be equally long, got {shown}")


def class_names(classes: Sequence[Any] | None, num_classes: int) -> list[str]:
    """The names of the classes; their numbers, if none are given.

    Raises:
        UserError: if they are not C different ones.
    """
    names = [str(c) for c in (range(num_classes) if classes is None else classes)]
    if len(names) != num_classes or len(set(names)) < len(names):
        raise UserError(
            f"the network has {num_classes} classes: give as many different names, "
            f"got {len(names)} ({', '.join(names[:10])})"
        )
    return names


def class_numbers(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The numbers of classes that are given by number or by name. Shape [M] int32.

    Raises:
        UserError: if there is none, or one that is no class.
    """
    if labels.ndim != 1 or len(labels) == 0:
        raise UserError(
            f"validation labels must be one for each example, got shape {labels.shape}"
        )
    if np.issubdtype(labels.dtype, np.integer):
        bad = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(bad) == 0:
            return labels.astype(np.int32)
    else:
        numbers = {name: number for number, name in enumerate(names)}
        found = [numbers.get(str(label), -1) for label in labels.tolist()]
        bad = np.flatnonzero(np.array(found) < 0)
        if len(bad) == 0:
            return np.array(found, np.int32)
    raise UserError(
        f"validation label {bad[0]} is {labels[bad[0]]!s}, but the classes, in the "
        f"order of the logits, are {', '.join(names[:10])}"
        f"{', ...' if len(names) > 10 else ''}: mend it, or name the classes"
    )


def ids_of(part: Columns, num: int) -> Any:
    """What examples are called: their ids, or a range of positions. Length N."""
    return np.asarray(part["ids"][:]) if "ids" in part else range(num)


def is_unlabeled(ids: Any, labeled: Iterable[Any]) -> np.ndarray:
    """Which examples are not among the labelled ones.

    Args:
        ids: of all, a range or an array. Length N.
        labeled: ids, which may have become text in a file.

    Returns:
        Shape [N] bool.

    Raises:
        UserError: if a labelled id is not in the pool, or ids are not distinct.
    """
    labeled, free = list(labeled), np.ones(len(ids), bool)
    if isinstance(ids, range):
        positions = [_number(i, len(ids)) for i in labeled]
    else:
        if len(np.unique(ids)) < len(ids):
            raise UserError("the pool's ids must be distinct, but one comes twice")
        wanted = [str(i) for i in labeled]
        text = ids.astype(str)
        at = np.flatnonzero(np.isin(text, wanted))
        found = dict(zip(text[at].tolist(), at.tolist(), strict=True))
        positions = [found.get(i) for i in wanted]
    for example, position in zip(labeled, positions, strict=True):
        if position is None:
            raise UserError(
                f"the labelled example {example} is not in the pool: give ids as the "
                "pool has them"
            )
        free[position] = False
    return free


def _number(example: Any, num: int) -> int | None:
    try:
        number = int(example)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < num else None


def _rows(part: Columns, tell: Tell | None, *, is_small: bool = False) -> Images:
    """Features and logits side by side, as images of 1 x 1 pixels."""
    columns = part[FEATURES], part[LOGITS]
    width = sum(column.shape[1] for column in columns)

    def read(ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), 1, 1, width), np.float32)
        at = columns[0].shape[1]
        rows[:, 0, 0, :at] = take_rows(columns[0], ids)
        rows[:, 0, 0, at:] = take_rows(columns[1], ids)
        return rows

    num = len(columns[0])
    return images_of(read, num, (1, 1, width), tell=tell, is_small=is_small)
