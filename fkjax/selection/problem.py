"""The problem that a query solves: pool, validation set, model and classes."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fkjax.base import Examples, Model, Variables
from fkjax.data.columns import Table
from fkjax.data.copies import first_equal
from fkjax.experiment.held_out import HeldOut
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.selection.copies import Copies, conflicts, copies_of
from fkjax.selection.ids import checked_ids, is_unlabeled
from fkjax.selection.lacking import Labels

_SHOWN = 5  # classes named in a sentence


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
        classes: names of the classes, those for which the model has no output last.
            Length C.
        num_lacking: number of classes for which the model has no output yet. Their
            probabilities are zero, and their validation examples are mistakes.
        kernel: kernel by which the Fisher strategies match.
        batch_size: number of examples described at a time.
        is_trained: whether the model has been trained on labels. If not, and no example
            of the pool is labeled, strategies of uncertainty draw at random, as in the
            first round of an experiment.
        copies: exact copies, of which one is queried; None to query all.
        trained_on_validation: whether the model was trained on the validation set.
            Strategies by its mistakes then need `held_out`.
        labels: known labels of the pool; -1 for the other examples. Shape [N]; None if
            they are not known.
        held_out: predictions for the validation set by models that were not trained on
            it, and the prior correction of `model`; None if `model` was not trained on
            it and nothing is corrected.
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
    num_lacking: int = 0
    kernel: Kernel = multi_scale
    batch_size: int = 100
    is_trained: bool = False
    copies: Copies | None = None
    trained_on_validation: bool = False
    labels: np.ndarray | None = None
    held_out: HeldOut | None = None

    @property
    def notes(self) -> list[str]:
        """Sentences on what the model has seen, and on classes that are lacking."""
        counts = np.bincount(self.validation_labels, minlength=len(self.classes))
        num_outputs = len(self.classes) - self.num_lacking
        known, lacking = self.classes[:num_outputs], self.classes[num_outputs:]
        notes = []
        if self.trained_on_validation and self.held_out is None:
            notes.append(
                "the model was trained on the validation set, so that its mistakes "
                "there are fewer than in deployment, and the bias of the pool cannot "
                "be estimated"
            )
        if self.num_lacking:
            notes.append(
                f"the model has no output for {_first(lacking)}: their validation "
                f"examples ({counts[num_outputs:].sum():,}) count as mistakes; the "
                f"model's {num_outputs} logits are taken as those of {_first(known)}, "
                "in this order"
            )
        absent = [y for y, num in zip(known, counts, strict=False) if num == 0]
        if absent:
            notes.append(
                f"the validation set has no example of {_first(absent)}: the pool's "
                "examples of these classes are a bias, as deployment is taken to have "
                "none"
            )
        return notes


def _first(names: Sequence[str]) -> str:
    """Returns the first names as text, and the number of the others."""
    shown = ", ".join(names[:_SHOWN])
    rest = len(names) - _SHOWN
    return f"{shown} and {rest:,} more" if rest > 0 else shown


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
    labels: Labels,
    kernel: Kernel = multi_scale,
    batch_size: int,
    keep_copies: bool,
    warn: Callable[[str], object],
) -> Problem:
    """Makes a problem from a trained model and the arrays given by the user.

    Args:
        model: classifier.
        variables: variables of the model.
        taps: names of the layers whose activations form the descriptors.
        pool: arrays of the pool, with ids.
        pool_examples: examples of the pool, as the model takes them. Shape [N, ...].
        validation: arrays of the validation set, with ids.
        validation_examples: examples of the validation set, as the model takes them.
            Shape [M, ...].
        labeled: ids of the pool's examples that are already labeled, or a mask.
            Shape [N] bool.
        labels: labels of the validation set and names of the classes.
        kernel: kernel by which the Fisher strategies match.
        batch_size: number of examples described at a time.
        keep_copies: whether exact copies can be queried, too.
        warn: function called with a message for copies with different labels.

    Raises:
        UserError: if an id is missing or unknown.
    """
    pool_ids = checked_ids(pool.ids, "pool")
    validation_ids = checked_ids(validation.ids, "validation set")
    is_open = is_unlabeled(pool_ids, labeled)
    copies = None
    if not keep_copies:
        groups = first_equal(pool_examples, validation_examples)
        of_pool, of_validation = np.split(groups, [len(pool_examples)])
        copies = copies_of(of_pool, of_validation)
        for sentence in conflicts(
            of_validation, labels.numbers, validation_ids, labels.classes
        ):
            warn(f"in the validation set, {sentence}")
    return Problem(
        model=model,
        variables=variables,
        taps=taps,
        pool=pool_examples,
        pool_ids=pool_ids,
        is_unlabeled=is_open,
        validation=validation_examples,
        validation_ids=validation_ids,
        validation_labels=labels.numbers,
        classes=labels.classes,
        num_lacking=labels.num_lacking,
        kernel=kernel,
        batch_size=batch_size,
        is_trained=True,
        copies=copies,
    )
