"""The problem that a query solves: pool, validation set, model and classes."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Examples, Model, Variables
from fkjax.data.columns import Table
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.selection.class_names import class_names, class_numbers, given_classes
from fkjax.selection.ids import checked_ids, is_unlabeled


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
        labeled: ids of the pool's examples that are already labeled, or a mask.
            Shape [N] bool.
        classes: names of the classes, in the order of the logits; their numbers if
            None.
        kernel: kernel by which the Fisher strategies match.
        batch_size: number of examples described at a time.

    Raises:
        UserError: if the classes do not fit the model, a label is not a class, or an id
            is missing or unknown.
    """
    given = given_classes(classes)
    names = class_names(given, model.num_classes)
    pool_ids = checked_ids(pool.ids, "pool")
    return Problem(
        model=model,
        variables=variables,
        taps=taps,
        pool=pool_examples,
        pool_ids=pool_ids,
        is_unlabeled=is_unlabeled(pool_ids, labeled),
        validation=validation_examples,
        validation_ids=checked_ids(validation.ids, "validation set"),
        validation_labels=class_numbers(
            np.asarray(validation["labels"][:]), names, given
        ),
        classes=names,
        kernel=kernel,
        batch_size=batch_size,
        is_trained=True,
    )
