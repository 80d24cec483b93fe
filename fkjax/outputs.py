"""What to label next from what any network made of the pool: features and logits.

The last layer's Fisher vectors are exact from these alone; see
`fkjax.kernel.last_layer`. So `SUFFICE` can be asked. The others need the network:
MC-dropout and VAAL run or train one, and perturbed copies are new images.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np

from fkjax.arrays import as_columns, take_rows
from fkjax.base import Images, UserError, Variables
from fkjax.images import stream
from fkjax.kernel import last_layer
from fkjax.models.outputs import FEATURES, LOGITS, from_outputs
from fkjax.selection import Problem

SUFFICE = (
    *("random", "margin", "least_confidence", "feature_match"),
    *("fisher_argmax", "fisher_nearest", "fisher_nearest_joint"),
)
"""The strategies for which features and logits suffice."""

_IN_MEMORY = 1 << 27  # bytes: more than that is read from where it is
_AT_ONCE = 1 << 24  # similarities to validation examples that a batch holds


def problem_of_outputs(
    pool: Any,
    validation: Any,
    *,
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Problem:
    """A pool of which features and logits are known.

    Args:
        pool: a mapping of arrays, or files as of `fkjax.arrays.read_columns`, with
            features [N, d], logits [N, C], or log-probabilities in their place, and
            ids [N] if they are to be called anything but their positions.
        validation: likewise, and with labels [M]: classes' numbers from 0 on, in the
            order of the logits, or their names.
        labeled: the ids of the pool's examples that have a label already.
        classes: the names of the classes, in the order of the logits.
        tell: `tell(rows, N)` is called whenever rows of a large pool were read.

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
    num_pool, num_validation = len(pool[FEATURES]), len(labels)
    ids: Any = pool.get("ids", range(num_pool))
    ids = ids if isinstance(ids, range) else np.asarray(ids[:])
    validation_ids = validation.get("ids", np.arange(num_validation))[:].tolist()
    return Problem(
        from_outputs(num_features, num_classes),
        Variables({}),
        (FEATURES, LOGITS),
        _rows(pool, tell),
        ids,
        is_unlabeled(ids, labeled),
        _rows(validation, None, is_small=True),
        validation_ids,
        labels,
        names,
        last_layer(FEATURES, LOGITS, num_classes),
        int(np.clip(_AT_ONCE // max(1, num_validation), 256, 8192)),
        is_trained=True,
    )


def _check(part: Any, what: str) -> None:
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
    lengths = {name: len(column) for name, column in part.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise UserError(f"the {what}'s arrays must be equally long, got {shown}")
    if part[LOGITS].shape[1] < 2:
        raise UserError(f"the {what}'s logits must be of 2 or more classes, got 1")


def class_names(classes: Sequence[Any] | None, num_classes: int) -> list[str]:
    """The names of the classes; their numbers, if none are given.

    Raises:
        UserError: if they are not C different ones.
    """
    names = [str(c) for c in (range(num_classes) if classes is None else classes)]
    if len(names) != num_classes or len(set(names)) < len(names):
        raise UserError(
            f"the logits are of {num_classes} classes: give as many different names, "
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


def is_unlabeled(ids: Sequence[Any], labeled: Iterable[Any]) -> np.ndarray:
    """Which examples are not among the labelled ones. Shape [N] bool.

    Raises:
        UserError: if a labelled id is not in the pool, or ids are not distinct.
    """
    free = np.ones(len(ids), bool)
    labeled = list(labeled)
    if isinstance(ids, range):
        positions = [_number(i, len(ids)) for i in labeled]
    else:
        if len(np.unique(np.asarray(ids))) < len(ids):
            raise UserError("the pool's ids must be distinct, but one comes twice")
        wanted = {str(i) for i in labeled}
        found = {}
        if wanted:
            found = {str(i): n for n, i in enumerate(ids) if str(i) in wanted}
        positions = [found.get(str(i)) for i in labeled]
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


def _rows(
    part: Any, tell: Callable[[int, int], None] | None, is_small: bool = False
) -> Images:
    """Features and logits side by side, as images of 1 x 1 pixels."""
    columns = part[FEATURES], part[LOGITS]
    width = sum(column.shape[1] for column in columns)
    num = len(columns[0])

    def read(ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), 1, 1, width), np.float32)
        at = columns[0].shape[1]
        rows[:, 0, 0, :at] = take_rows(columns[0], ids)
        rows[:, 0, 0, at:] = take_rows(columns[1], ids)
        return rows

    if is_small or num * width * 4 <= _IN_MEMORY:
        return jnp.asarray(read(np.arange(num)))
    return stream(_Reader(read, num, tell), num, (1, 1, width), np.float32)


class _Reader:
    """A `fkjax.images.Fetch` that reads one batch ahead."""

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        num: int,
        tell: Callable[[int, int], None] | None,
    ):
        self._read, self._num, self._tell = read, num, tell
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[np.ndarray, Future] | None = None
        self._lock = threading.Lock()

    def __call__(self, ids: np.ndarray, then: np.ndarray) -> np.ndarray:
        with self._lock:
            ahead, self._ahead = self._ahead, None
            if ahead is not None and np.array_equal(ahead[0], ids):
                rows = ahead[1].result()
            else:
                rows = self._read(ids)
            if len(then):
                self._ahead = then, self._thread.submit(self._read, then)
        if self._tell is not None:
            self._tell(len(ids), self._num)
        return rows
