"""Estimates of the class prior of a pool without labels, by EM and by BBSE."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fkjax.base import UserError
from fkjax.label_shift.checks import (
    checked_labels,
    checked_names,
    checked_numbers,
    checked_probabilities,
    listed,
)

_MOST_STEPS = 3000  # of EM
_TOLERANCE = 1e-4  # of EM's log-likelihood


class Estimate(NamedTuple):
    """An estimate of the pool's class prior.

    Attributes:
        prior: share of each class; NaN if the prior is not determined. Shape [C].
        problem: reason why the prior is not determined, as part of a sentence; empty
            if it is determined.
    """

    prior: np.ndarray
    problem: str = ""


def em_prior(pool_probs: Any, validation_prior: Any) -> Estimate:
    """Estimates the maximum-likelihood prior of the pool by expectation maximization.

    Maximizes sum_i log sum_y q_y p(y | x_i) / p_y over q (Saerens, Latinne and
    Decaestecker 2002), which is concave. The steps are extrapolated (Varadhan and
    Roland 2008) and end when the log-likelihood is within 1e-4 of its maximum, by the
    bound N log max_y g_y, where q_y g_y is the next step.

    The quotient p(y | x) / p_y is proportional to p(x | y) only if p(y | x) is
    calibrated. Models are often overconfident, and then q is wrong for a pool of any
    size. Pass probabilities from `fkjax.label_shift.calibrated`, as
    `fkjax.label_shift.bias` does.

    >>> probs = np.array([[0.9, 0.1]] * 80 + [[0.1, 0.9]] * 20)
    >>> em_prior(probs, [0.5, 0.5]).prior.round(3).tolist()
    [0.875, 0.125]

    Args:
        pool_probs: classifier's probabilities for the pool. Shape [N, C].
        validation_prior: class prior for which they are calibrated, positive. Shape
            [C].

    Returns:
        The estimated prior, or the reason why it is not determined.

    Raises:
        UserError: if the values are not probabilities or the shapes do not match.
    """
    probs = checked_probabilities(pool_probs, "pool")
    prior = np.asarray(validation_prior, float)
    if prior.shape != probs.shape[1:] or not (prior > 0).all():
        raise UserError(
            f"the validation prior must have a positive share for each of the "
            f"{probs.shape[1]} classes, got {prior.tolist()}"
        )
    return em_estimate(probs / prior, prior / prior.sum(), range(len(prior)))


def bbse_prior(
    pool_predicted: Any,
    validation_predicted: Any,
    validation_labels: Any,
    num_classes: int,
) -> Estimate:
    """Estimates the pool's prior by black-box shift estimation from hard predictions.

    Solves sum_y A_ky q_y = m_k by least squares with q >= 0, then scales q to sum to
    one. A_ky is the share of the validation examples of class y that are predicted as
    k, and m_k the share of the pool that is predicted as k (Lipton, Wang and Smola
    2018). The prior is not determined if the smallest singular value of A is within
    three standard errors of zero, for example if a class is never predicted.

    >>> labels = np.repeat([0, 1], 10)
    >>> predicted = np.where(np.arange(20) % 10 == 0, 1 - labels, labels)  # 90 % right
    >>> pool = np.repeat([0, 1], [82, 18])
    >>> bbse_prior(pool, predicted, labels, 2).prior.round(3).tolist()
    [0.9, 0.1]

    Args:
        pool_predicted: predicted classes of the pool. Shape [N].
        validation_predicted: predicted classes of the validation set. Shape [M].
        validation_labels: true classes of the validation set. Shape [M].
        num_classes: number of classes, C.

    Returns:
        The estimated prior, or the reason why it is not determined.

    Raises:
        UserError: if a set is empty, the lengths differ, a number is not that of a
            class, or a class has no validation example.
    """
    names = checked_names(range(num_classes))
    pool = checked_numbers(pool_predicted, names, "predictions of the pool")
    predicted = checked_numbers(
        validation_predicted, names, "predictions of the validation set"
    )
    labels = checked_labels(validation_labels, len(predicted), names)
    counts = confusion_counts(predicted, labels, num_classes)
    shares = np.bincount(pool, minlength=num_classes) / len(pool)
    return bbse_estimate(counts, shares, names)


def em_estimate(
    likelihoods: np.ndarray, start: np.ndarray, names: Iterable[Any]
) -> Estimate:
    """Returns the prior of `solve_em`, or why the likelihood is too flat for it."""
    prior = solve_em(likelihoods, start)
    if problem := _em_problem(likelihoods, prior, list(names)):
        return Estimate(np.full(len(prior), np.nan), problem)
    return Estimate(prior)


def solve_em(likelihoods: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Finds the q that maximizes sum_i log sum_y q_y likelihoods_iy.

    Args:
        likelihoods: likelihood of each example under each class. Shape [N, C].
        start: first q, positive. Shape [C].

    Returns:
        The prior q. Shape [C].
    """
    num = len(likelihoods)
    columns = np.ascontiguousarray(likelihoods.T)  # sums over long rows are faster

    def step(q: np.ndarray) -> tuple[np.ndarray, float, float]:
        mixed = np.einsum("yi,y->i", columns, q)
        factor = np.einsum("yi,i->y", columns, 1 / mixed) / num
        new = q * factor
        bound = float(num * np.log(factor.max()))
        return new / new.sum(), bound, float(np.log(mixed).sum())

    q, fallback, reached = start, start, -np.inf
    for _ in range(_MOST_STEPS):
        first, bound, value = step(q)
        if value < reached:  # the extrapolation went too far
            q, reached = fallback, -np.inf
            continue
        if bound <= _TOLERANCE:
            return first
        second, _, _ = step(first)
        r = first - q
        v = (second - first) - r
        size = np.linalg.norm(v)
        length = max(1.0, float(np.linalg.norm(r) / size)) if size else 1.0
        far = q + 2 * length * r + length**2 * v
        while far.min() <= 0 and length > 1.01:
            length = (length + 1) / 2
            far = q + 2 * length * r + length**2 * v
        q, fallback, reached = (far if far.min() > 0 else second), second, value
    return q


def posterior(likelihoods: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the classes at a prior. Shape [N, C]."""
    joint = likelihoods * prior
    return joint / joint.sum(axis=1, keepdims=True)


def _em_problem(
    likelihoods: np.ndarray, prior: np.ndarray, names: Sequence[Any]
) -> str:
    """Returns which two classes the likelihood hardly separates, or an empty string.

    The shares are not determined if their standard error along some direction, from the
    Fisher information of the N examples, is one half or more.
    """
    scores = likelihoods / (likelihoods @ prior)[:, None]
    center = np.eye(len(prior)) - 1 / len(prior)  # changes of shares sum to zero
    information = center @ (scores.T @ scores) @ center
    values, vectors = np.linalg.eigh(information)
    # The first eigenvalue is zero: `center` removes the direction out of the simplex.
    if values[1] > 4:
        return ""
    pair = sorted(np.argsort(-np.abs(vectors[:, 1]))[:2])
    return (
        f"the probabilities of {len(likelihoods):,} pool examples hardly separate "
        f"{names[pair[0]]} from {names[pair[1]]}"
    )


def bbse_estimate(
    counts: np.ndarray, pool_shares: np.ndarray, names: Iterable[Any]
) -> Estimate:
    """Returns the prior of `solve_bbse`, or why it is not determined."""
    if problem := _confusion_problem(counts, list(names)):
        return Estimate(np.full(len(counts), np.nan), problem)
    return Estimate(solve_bbse(counts, pool_shares))


def solve_bbse(counts: np.ndarray, pool_shares: np.ndarray) -> np.ndarray:
    """Finds the prior that explains the pool's predicted shares. Shape [C]."""
    conditional = counts / counts.sum(axis=0)
    try:
        prior = np.linalg.solve(conditional, pool_shares)
    except np.linalg.LinAlgError:  # a resample may be singular
        prior = np.full(len(counts), -1.0)
    if not (prior >= 0).all():
        from scipy.optimize import nnls  # takes a second to import

        prior = nnls(conditional, pool_shares)[0]
    return prior / prior.sum()


def _confusion_problem(counts: np.ndarray, names: Sequence[Any]) -> str:
    never = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(never):
        shown = listed(names, never)
        return f"the model predicts no validation example as {shown}"
    sizes = counts.sum(axis=0)
    conditional = counts / sizes
    left, values, right = np.linalg.svd(conditional)
    u, v = left[:, -1], right[-1]
    # The variance of u^T A v, which is to first order the smallest singular value.
    variances = (u**2) @ conditional - (u @ conditional) ** 2
    error = np.sqrt(np.maximum(variances, 0) / sizes @ v**2)
    if values[-1] > max(3 * error, 1e-6):
        return ""
    pair = sorted(np.argsort(-np.abs(v))[:2])
    return f"the predictions hardly separate {names[pair[0]]} from {names[pair[1]]}"


def confusion_counts(
    predicted: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns the number of examples of each class (column) by prediction (row).

    Shape [C, C].
    """
    cells = predicted * num_classes + labels
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)
