"""Splits of a dataset into a biased pool, a validation set and a tuning set."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fkjax.base import Examples, UserError, key_for
from fkjax.data.datasets import Dataset


class Split(NamedTuple):
    """A subset of the examples of a dataset, in ascending order of ids.

    Attributes:
        images: the images. Shape [n, H, W, channels] uint8.
        labels: the labels. Shape [n] int32.
        ids: rows in the training part (or the test part) of the dataset. Shape [n]
            int32.
    """

    images: Examples
    labels: np.ndarray
    ids: np.ndarray


class Splits(NamedTuple):
    """The data of an experiment.

    Attributes:
        pool: the pool, a subset of the training part.
        validation: the validation set, disjoint from the pool.
        tuning: the tuning set, disjoint from both.
        test: the test part.
        num_classes: number of classes, C.
    """

    pool: Split
    validation: Split
    tuning: Split
    test: Split
    num_classes: int


def split(
    key: jax.Array,
    dataset: Dataset,
    *,
    validation_size: int,
    tuning_size: int = 0,
    imbalance: str = "step",
    imbalance_ratio: float = 1.0,
    rare_classes: Sequence[int] | None = None,
) -> Splits:
    """Splits the training part into a biased pool, a validation set and a tuning set.

    The validation set is class-balanced. The tuning set is a class-balanced part that
    is held out of it. The remaining examples are the pool, which is then biased
    (Gudovskiy et al. 2020, Sec. 4). The pool does not depend on the size of the tuning
    set, and for the same key, the pools of increasing ratios are nested.

    >>> from fkjax.data.datasets import load
    >>> splits = split(jax.random.key(0), load("digits"), validation_size=200,
    ...                tuning_size=50, imbalance_ratio=10.0)
    >>> [len(part.ids) for part in splits[:4]]
    [685, 150, 50, 355]

    Args:
        key: random key of the run.
        dataset: the dataset to split.
        validation_size: number of examples in the validation and the tuning set
            together.
        tuning_size: number of these examples in the tuning set.
        imbalance: kind of bias, `step` (see `step_imbalance`) or `long_tail` (see
            `long_tail`).
        imbalance_ratio: factor by which rare classes are reduced; 1 does not change the
            pool.
        rare_classes: the rare classes; by default C // 2 .. C-1.

    Returns:
        The splits, each in ascending order of ids.

    Raises:
        UserError: if a class has too few examples, a class would have no image in the
            pool, or an option is out of range.
    """
    if imbalance not in _IMBALANCES:
        raise UserError(
            f"imbalance {imbalance!r} is unknown; choose {' or '.join(_IMBALANCES)}"
        )
    if validation_size < 1:
        raise UserError(
            f"the validation size must be at least 1, got {validation_size}"
        )
    if not 0 <= tuning_size < validation_size:
        raise UserError(
            "the tuning size must be at least 0 and below the validation size, "
            f"{validation_size}, got {tuning_size}"
        )
    labels, num_classes = dataset.train_labels, dataset.num_classes
    held_out = balanced_subset(
        key_for(key, "validation split"), labels, validation_size, num_classes
    )
    tuning = held_out[
        balanced_subset(
            key_for(key, "tuning split"), labels[held_out], tuning_size, num_classes
        )
    ]
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    kept = _IMBALANCES[imbalance](
        key_for(key, "imbalance"),
        labels[rest],
        num_classes,
        ratio=imbalance_ratio,
        rare_classes=rare_classes,
    )

    def rows(ids: np.ndarray) -> Split:
        return Split(dataset.train_images[ids], labels[ids], ids.astype(np.int32))

    return Splits(
        pool=rows(rest[kept]),
        validation=rows(np.setdiff1d(held_out, tuning)),
        tuning=rows(tuning),
        test=Split(
            dataset.test_images,
            dataset.test_labels,
            np.arange(len(dataset.test_labels), dtype=np.int32),
        ),
        num_classes=num_classes,
    )


def balanced_subset(
    key: jax.Array, labels: np.ndarray, size: int, num_classes: int
) -> np.ndarray:
    """Draws the same number of examples of each class.

    If `size` is not a multiple of C, the first classes get one example more.

    Args:
        key: random key of the draw.
        labels: labels in 0..C-1. Shape [n].
        size: number of examples to draw.
        num_classes: number of classes, C.

    Returns:
        Positions in `labels`, in ascending order. Shape [size].

    Raises:
        UserError: if a class has too few examples.
    """
    quotas = size // num_classes + (np.arange(num_classes) < size % num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    for c in np.flatnonzero(counts < quotas):
        raise UserError(
            f"a balanced subset of {size} needs {quotas[c]} images of class {c}, which "
            f"has {counts[c]}; choose at most {counts.min() * num_classes}"
        )
    return _keep(key, [(np.flatnonzero(labels == c), q) for c, q in enumerate(quotas)])


def step_imbalance(
    key: jax.Array,
    labels: np.ndarray,
    num_classes: int,
    *,
    ratio: float,
    rare_classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Reduces the rare classes to (number of images of common classes) / ratio images.

    This is the total number of images of all rare classes.

    Args:
        key: random key of the images to keep.
        labels: labels in 0..C-1. Shape [n].
        num_classes: number of classes, C.
        ratio: ratio of common to rare images, at least 1; 1 keeps every image.
        rare_classes: the rare classes; by default C // 2 .. C-1.

    Returns:
        Positions of the images to keep, in ascending order.

    Raises:
        UserError: if an option is out of range or a class would have no image.
    """
    is_rare = np.isin(labels, _rare(num_classes, ratio, rare_classes))
    rare, common = np.flatnonzero(is_rare), np.flatnonzero(~is_rare)
    num_kept = len(rare) if ratio == 1 else min(len(rare), round(len(common) / ratio))
    kept = _keep(key, [(common, len(common)), (rare, num_kept)])
    _check_no_class_empty(labels[kept], num_classes, ratio)
    return kept


def long_tail(
    key: jax.Array,
    labels: np.ndarray,
    num_classes: int,
    *,
    ratio: float,
    rare_classes: Sequence[int] | None = None,
) -> np.ndarray:
    """Reduces the class of rank i to n_max * ratio ** (-i / (C - 1)) images.

    n_max is the size of the largest class (Cui et al. 2019, Sec. 5.1). The classes are
    ranked by their indices, except that rare classes come last. See `step_imbalance`
    for the arguments, the result and the errors.
    """
    tail = _rare(num_classes, ratio, rare_classes)
    order = [c for c in range(num_classes) if c not in tail] + tail
    largest = int(np.bincount(labels, minlength=num_classes).max())
    quotas = [
        round(largest * ratio ** (-i / (num_classes - 1))) for i in range(len(order))
    ]
    kept = _keep(
        key,
        [(np.flatnonzero(labels == c), q) for c, q in zip(order, quotas, strict=True)],
    )
    _check_no_class_empty(labels[kept], num_classes, ratio)
    return kept


_IMBALANCES = {"step": step_imbalance, "long_tail": long_tail}


def _keep(key: jax.Array, groups: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Keeps `num` random positions of each group, in ascending order.

    The random order does not depend on `num`: a smaller `num` keeps a subset.
    """
    size = 1 + max(positions.max(initial=-1) for positions, _ in groups)
    draws = np.asarray(jax.random.uniform(key, (int(size),), np.float32))
    kept = [
        positions[np.argsort(draws[positions], kind="stable")[:num]]
        for positions, num in groups
    ]
    return np.sort(np.concatenate(kept))


def _rare(
    num_classes: int, ratio: float, rare_classes: Sequence[int] | None
) -> list[int]:
    if not ratio >= 1:
        raise UserError(f"the imbalance ratio must be at least 1, got {ratio:g}")
    if rare_classes is None:
        return list(range(num_classes // 2, num_classes))
    rare = list(dict.fromkeys(rare_classes))
    if unknown := [c for c in rare if c not in range(num_classes)]:
        raise UserError(
            f"rare class {unknown[0]} is unknown; classes are 0 to {num_classes - 1}"
        )
    if not 0 < len(rare) < num_classes:
        raise UserError(
            f"{len(rare)} of {num_classes} classes are rare; choose at least 1 and at "
            f"most {num_classes - 1}"
        )
    return rare


def _check_no_class_empty(labels: np.ndarray, num_classes: int, ratio: float) -> None:
    counts = np.bincount(labels, minlength=num_classes)
    for c in np.flatnonzero(counts == 0):
        raise UserError(
            f"imbalance ratio {ratio:g} leaves class {c} without an image in the pool "
            f"of {len(labels)}; choose a smaller ratio or validation set"
        )
