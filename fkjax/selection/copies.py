"""Exact copies in a pool: one of each is queried, and none whose label is known."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

_SHOWN = 20  # groups of copies in warnings


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """The exact copies in a pool.

    Attributes:
        first: position of the first equal example of the pool. Shape [N].
        is_known: whether an equal example outside of the pool has a known label, such
            as a validation example. Shape [N] bool.
    """

    first: np.ndarray
    is_known: np.ndarray

    def skipped(self, is_unlabeled: np.ndarray) -> np.ndarray:
        """Returns which unlabeled examples are not queried.

        They are the copies of labeled examples, of examples with known labels outside
        of the pool, and of unlabeled examples at lower positions.

        Args:
            is_unlabeled: whether each example of the pool is unlabeled. Shape [N] bool.

        Returns:
            A mask. Shape [N] bool.
        """
        is_later = self.first != np.arange(len(self.first))
        return is_unlabeled & (
            is_later | self._is_labeled(is_unlabeled) | self.is_known
        )

    def _is_labeled(self, is_unlabeled: np.ndarray) -> np.ndarray:
        labeled = np.zeros(len(self.first), bool)
        labeled[self.first[~is_unlabeled]] = True
        return labeled[self.first]

    def notes(self, is_unlabeled: np.ndarray) -> list[str]:
        """Returns sentences on the examples that are not queried, without a full stop.

        Args:
            is_unlabeled: see `skipped`.
        """
        skipped = self.skipped(is_unlabeled)
        of_labeled = skipped & self._is_labeled(is_unlabeled)
        of_known = skipped & ~of_labeled & self.is_known
        of_others = skipped & ~of_labeled & ~of_known
        total = f"of {is_unlabeled.sum():,} unlabeled examples"
        return [
            f"{mask.sum():,} {total} {'is an' if mask.sum() == 1 else 'are'} exact "
            f"{'copy' if mask.sum() == 1 else 'copies'} of {what} "
            "(--keep-copies queries all)"
            for mask, what in (
                (of_others, "others; one of each is queried"),
                (of_labeled, "labeled examples; none of them is queried"),
                (
                    of_known,
                    "validation examples or others with known labels; none of them is "
                    "queried",
                ),
            )
            if mask.any()
        ]


def copies_of(pool: np.ndarray, known: np.ndarray) -> Copies:
    """Returns the exact copies, given numbers that are equal for equal examples.

    Args:
        pool: numbers of the examples of the pool, such as positions from
            `fkjax.data.copies.first_equal`. Shape [N].
        known: numbers of examples outside of the pool whose labels are known.
    """
    _, first, of_pool = np.unique(pool, return_index=True, return_inverse=True)
    return Copies(first=first[of_pool], is_known=np.isin(pool, known))


def conflicts(
    groups: np.ndarray, labels: np.ndarray, names: Any, classes: Sequence[str]
) -> list[str]:
    """Describes exact copies with different labels.

    Args:
        groups: number of the group of equal examples of each example. Shape [n].
        labels: labels as positions in `classes`, or -1 if unknown. Shape [n] int.
        names: names of the examples. Length n.
        classes: names of the classes.

    Returns:
        A sentence on each of the first groups, without a full stop, and a sentence on
        the number of the others.
    """
    (labeled,) = np.nonzero(labels >= 0)
    order = labeled[np.lexsort((labels[labeled], groups[labeled]))]
    same = groups[order][1:] == groups[order][:-1]
    differ = same & (labels[order][1:] != labels[order][:-1])
    found = np.unique(groups[order][1:][differ])
    sentences = []
    for group in found[:_SHOWN]:
        members = np.flatnonzero((groups == group) & (labels >= 0))
        shown = ", ".join(
            f"{names[int(i)]} ({classes[int(labels[i])]})" for i in members[:_SHOWN]
        )
        more = len(members) - _SHOWN
        sentences.append(
            f"exact copies have different labels: {shown}"
            f"{f' and {more} more' if more > 0 else ''}"
        )
    if len(found) > _SHOWN:
        sentences.append(
            f"{len(found) - _SHOWN:,} more groups of exact copies have different labels"
        )
    return sentences
