"""The problem that a query solves: pool, validation set, model and classes."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Examples, Model, UserError, Variables
from fkjax.data.column_types import as_text
from fkjax.data.columns import Table
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.selection.id_cells import nearest, positions_of_cells


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A pool, a validation set and a model, from which a query is chosen.

    Attributes:
        model: classifier.
        variables: variables of the model.
        taps: names of the layers whose activations form the descriptors.
        pool: examples of the pool. Shape [N, H, W, channels].
        pool_ids: ids of the pool's examples, a sequence of length N.
        is_unlabeled: whether each example can be queried. Shape [N] bool.
        validation: examples of the validation set. Shape [M, H, W, channels].
        validation_ids: ids of the validation examples, a sequence of length M.
        validation_labels: true classes of the validation examples. Shape [M] int.
        classes: names of the classes. Length C.
        kernel: kernel by which the Fisher strategies match.
        batch_size: number of examples described at a time.
        is_trained: whether the model has been trained on labels. If not, and no example
            of the pool is labeled, strategies of uncertainty draw at random, as in the
            first round of an experiment.
    """

    model: Model
    variables: Variables
    taps: Sequence[str]
    pool: Examples
    pool_ids: Any
    is_unlabeled: np.ndarray
    validation: Examples
    validation_ids: Any
    validation_labels: np.ndarray
    classes: Sequence[str]
    kernel: Kernel = multi_scale
    batch_size: int = 100
    is_trained: bool = False


def make_problem(
    model: Model,
    variables: Variables,
    taps: Sequence[str],
    pool: Table,
    pool_examples: Examples,
    validation: Table,
    validation_examples: Examples,
    *,
    labeled: Iterable[Any],
    classes: Sequence[Any] | None,
    kernel: Kernel = multi_scale,
    batch_size: int,
) -> Problem:
    """Makes a problem from a trained model and the arrays given by the user.

    Args:
        model: classifier.
        variables: variables of the model.
        taps: names of the layers whose activations form the descriptors.
        pool: arrays of the pool, with ids.
        pool_examples: examples of the pool, as the model takes them. Shape [N, ...].
        validation: arrays of the validation set, with ids and labels.
        validation_examples: examples of the validation set, as the model takes them.
            Shape [M, ...].
        labeled: ids of the pool's examples that are already labeled.
        classes: names of the classes, in the order of the logits; their numbers if
            None.
        kernel: kernel by which the Fisher strategies match.
        batch_size: number of examples described at a time.

    Raises:
        UserError: if the classes do not fit the model, a label is not a class, or an id
            is unknown.
    """
    names = _class_names(classes, model.num_classes)
    return Problem(
        model=model,
        variables=variables,
        taps=taps,
        pool=pool_examples,
        pool_ids=pool.ids,
        is_unlabeled=_is_unlabeled(pool.ids, labeled),
        validation=validation_examples,
        validation_ids=validation.ids,
        validation_labels=_class_numbers(np.asarray(validation["labels"][:]), names),
        classes=names,
        kernel=kernel,
        batch_size=batch_size,
        is_trained=True,
    )


def _class_names(classes: Sequence[Any] | None, num_classes: int) -> list[str]:
    """Returns the names of the classes; their numbers if none are given.

    Raises:
        UserError: if they are not C different names.
    """
    names = [as_text(c) for c in (range(num_classes) if classes is None else classes)]
    if len(names) != num_classes or len(set(names)) < len(names):
        raise UserError(
            f"the network has {num_classes} classes and needs as many different names, "
            f"got {len(names)} ({', '.join(names[:10])})"
        )
    return names


def _class_numbers(labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Converts labels, numbers or names of classes, to numbers. Shape [M] int32.

    Raises:
        UserError: if there are no labels, or a label is not a class.
    """
    if labels.ndim != 1 or len(labels) == 0:
        raise UserError(
            f"validation labels must have shape [examples], got {labels.shape}"
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
        f"{', ...' if len(names) > 10 else ''}: fix it, or give the names of the "
        "classes"
    )


def _is_unlabeled(ids: Any, labeled: Iterable[Any]) -> np.ndarray:
    """Returns which examples are not labeled.

    Args:
        ids: ids of all examples, a range or an array. Length N.
        labeled: ids of the labeled examples, which may be text read from a file.

    Returns:
        A mask of the unlabeled examples. Shape [N] bool.

    Raises:
        UserError: if a labeled id is not in the pool, or ids are not distinct.
    """
    labeled, free = list(labeled), np.ones(len(ids), bool)
    if isinstance(ids, range):
        positions = [_number(i, len(ids)) for i in labeled]
    else:
        if len(np.unique(ids)) < len(ids):
            raise UserError(
                "the ids of the pool must be distinct, but one occurs twice"
            )
        wanted = [as_text(i) for i in labeled]
        text = ids.astype(str)
        at = np.flatnonzero(np.isin(text, wanted))
        found = dict(zip(text[at].tolist(), at.tolist(), strict=True))
        positions = [found.get(i) for i in wanted]
        positions = positions_of_cells(labeled, positions, ids)
    for example, position in zip(labeled, positions, strict=True):
        if position is None:
            raise UserError(
                f"the labeled example {example} is not in the pool"
                f"{nearest(example, ids)}: give ids as in the pool"
            )
        free[position] = False
    return free


def _number(example: Any, num: int) -> int | None:
    try:
        number = int(example)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < num else None
