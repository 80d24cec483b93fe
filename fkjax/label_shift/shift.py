"""The class balance of a pool, estimated from a classifier's outputs only.

All estimates assume label shift (`fkjax.label_shift.wording.ASSUMPTION`): a classifier
then errs in the pool as it errs on the validation set, so that its outputs determine
how often each class occurs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fkjax.base import UserError, key_for
from fkjax.label_shift.checks import (
    checked_labels,
    checked_names,
    checked_probabilities,
)
from fkjax.label_shift.estimators import (
    bbse_estimate,
    em_estimate,
    solve_bbse,
    solve_em,
    weighted_confusion,
)
from fkjax.label_shift.scaling import (
    fit_calibration,
    log_probabilities,
    no_calibration,
    softmax,
)
from fkjax.label_shift.types import Bootstrap, Distance, Found, Shares, Shift
from fkjax.label_shift.wording import ALPHA, cautions_of, sentence_of, verdict_of

NUM_RESAMPLES = 200
MOST_POOL = 100_000  # examples; more add little, as the validation set is smaller
_MOST_ENTRIES = 2_000_000  # of the array [N, C], which EM reads thousands of times
_LEAST_POOL = 5_000  # examples, for any number of classes
_NUM_PERMUTATIONS = 9999


def bias(
    pool_probs: Any,
    validation_probs: Any,
    validation_labels: Any,
    *,
    classes: Sequence[str],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Shift:
    """Estimates how the pool's class balance differs from the validation set's.

    The balance is estimated twice: by black-box shift estimation (BBSE), and by
    expectation maximization (EM) with probabilities calibrated on the validation set.
    BBSE comes first, because the intervals of EM are too narrow if the calibration
    fails.

    The 95 % intervals are percentile intervals of a bootstrap that resamples the pool
    and the validation set. Validation examples are resampled within each class: both
    estimates depend on them through p(x | y) only, and no resample lacks a class. Each
    resample is calibrated anew. The shares of the validation set itself are drawn
    separately, from the Dirichlet distribution of its counts (the Bayesian bootstrap).

    A permutation test with Pearson's statistic, exact at any size, decides whether
    there is a bias at all. Its null hypothesis: the model predicts each class equally
    often in both sets.

    Args:
        pool_probs: classifier's probabilities for unlabeled examples of the pool. Of a
            large pool, a random subset of 2,000,000 / C examples is used, but no fewer
            than 5,000 and no more than 100,000. Shape [N, C].
        validation_probs: classifier's probabilities for the validation set. Shape
            [M, C].
        validation_labels: true classes of the validation set. Shape [M].
        classes: names of the classes. Length C.
        seed: seed of all random choices.
        num_resamples: number of bootstrap resamples, 40 or more.

    Returns:
        The estimates, the test and the verdict.

    Raises:
        UserError: if the values are not probabilities, the shapes do not match, or a
            class has no validation example.
    """
    if num_resamples < 40:
        raise UserError(
            f"num_resamples must be 40 or more for a 95 % interval, got {num_resamples}"
        )
    key = key_for(jax.random.key(seed), "label shift")
    names, probs = (
        checked_names(classes),
        checked_probabilities(validation_probs, "validation set"),
    )
    pool = checked_probabilities(_sampled(key_for(key, "pool"), pool_probs), "pool")
    if {pool.shape[1], probs.shape[1]} != {len(names)}:
        raise UserError(
            f"the probabilities must have one column for each of the {len(names)} "
            f"classes, got {pool.shape[1]} columns for the pool and {probs.shape[1]} "
            "for the validation set"
        )
    labels = checked_labels(validation_labels, len(probs), names)
    counts = np.bincount(labels, minlength=len(names))
    prior = counts / len(labels)
    prior_draws = _generator(key_for(key, "validation prior")).dirichlet(
        counts, size=num_resamples
    )
    p = _homogeneity(
        key_for(key, "permutations"),
        np.bincount(pool.argmax(axis=1), minlength=len(names)),
        np.bincount(probs.argmax(axis=1), minlength=len(names)),
    )
    found = _bootstrap(
        key_for(key, "bootstrap"), pool, probs, labels, names, num_resamples
    )
    em, bbse = (_shares(f.estimate.prior, f.draws) for f in (found.em, found.bbse))
    by_em = bool(found.bbse.estimate.problem)
    best = found.em if by_em else found.bbse
    ratio = _shares(best.estimate.prior / prior, best.draws / prior_draws)
    distance = _distance(best.estimate.prior - prior, best.draws - prior_draws, p)
    problem = best.estimate.problem
    verdict = verdict_of(p, distance, problem)
    return Shift(
        classes=names,
        validation=_shares(prior, prior_draws),
        em=em,
        bbse=bbse,
        em_problem=found.em.estimate.problem,
        bbse_problem=found.bbse.estimate.problem,
        best="" if problem else "em" if by_em else "bbse",
        ratio=ratio,
        distance=distance,
        p=p,
        verdict=verdict,
        sentence=sentence_of(verdict, p, distance, ratio, problem, names, len(labels)),
        cautions=list(cautions_of(counts, found, names)),
        num_pool=len(pool),
        num_validation=len(labels),
        num_resamples=num_resamples,
    )


def _bootstrap(
    key: jax.Array,
    pool: np.ndarray,
    probs: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    num_resamples: int,
) -> Bootstrap:
    num_classes, once = len(names), np.ones(len(labels))
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    z, pool_z = log_probabilities(probs), log_probabilities(pool)
    predicted, pool_predicted = probs.argmax(axis=1), pool.argmax(axis=1)
    top, pool_top = probs.max(axis=1), pool.max(axis=1)
    fitted = fit_calibration(z, labels, once, no_calibration(num_classes))
    em = em_estimate(softmax(fitted, pool_z) / prior, prior, names)
    bbse = bbse_estimate(
        weighted_confusion(predicted, labels, once, num_classes),
        np.bincount(pool_predicted, minlength=num_classes) / len(pool),
        names,
    )
    best = em.prior if bbse.problem else bbse.prior
    gap = _gap(best, top, labels, once, float(pool_top.mean()))
    em_draws, bbse_draws = np.full((2, num_resamples, num_classes), np.nan)
    gap_draws = np.full(num_resamples, np.nan)
    members = [np.flatnonzero(labels == y) for y in range(num_classes)]
    for i in range(num_resamples):
        generator = _generator(key_for(key, "resample", i))
        drawn = np.concatenate([generator.choice(m, len(m)) for m in members])
        times = np.bincount(drawn, minlength=len(labels)).astype(float)
        drawn = generator.integers(len(pool), size=len(pool))
        pool_times = np.bincount(drawn, minlength=len(pool)).astype(float)
        there = np.flatnonzero(pool_times)
        if not em.problem:
            own = fit_calibration(z, labels, times, fitted)
            # Start with positive shares: EM never changes a share of zero.
            em_draws[i] = solve_em(
                softmax(own, pool_z[there]) / prior,
                pool_times[there],
                0.9 * em.prior + 0.1 * prior,
                tolerance=1e-2,
            )
        if not bbse.problem:
            bbse_draws[i] = solve_bbse(
                weighted_confusion(predicted, labels, times, num_classes),
                np.bincount(pool_predicted, pool_times, num_classes) / len(pool),
            )
        best = em_draws[i] if bbse.problem else bbse_draws[i]
        mean = float((pool_times * pool_top).sum() / len(pool))
        gap_draws[i] = _gap(best, top, labels, times, mean)
    return Bootstrap(Found(em, em_draws), Found(bbse, bbse_draws), (gap, gap_draws))


def _gap(
    prior: np.ndarray,
    top: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    pool_mean: float,
) -> float:
    """Computes how much more confident the model is in the pool than expected.

    Under label shift, p(x | y) is the same in both sets. The mean of the highest
    probability over the pool is then the mean over the classes of its mean on the
    validation set, weighted by `prior`.
    """
    sizes = np.bincount(labels, weights, len(prior))
    means = np.bincount(labels, weights * top, len(prior)) / sizes
    return float(pool_mean - prior @ means)


def _homogeneity(
    key: jax.Array, pool_counts: np.ndarray, validation_counts: np.ndarray
) -> float:
    """Returns the p-value of a permutation test that two sets have the same shares."""
    both = pool_counts + validation_counts
    share = both / both.sum()
    num = validation_counts.sum()

    def statistic(counts: np.ndarray) -> np.ndarray:
        # One row is enough: the other row's term is the same up to a factor, because
        # the column sums are fixed.
        return ((counts - num * share) ** 2 / np.maximum(both, 1)).sum(axis=-1)

    drawn = _generator(key).multivariate_hypergeometric(
        both, num, size=_NUM_PERMUTATIONS, method="marginals"
    )
    reached = statistic(drawn) >= statistic(validation_counts) * (1 - 1e-9)
    return float((1 + reached.sum()) / (1 + _NUM_PERMUTATIONS))


def _shares(value: np.ndarray, draws: np.ndarray) -> Shares:
    return Shares(value, *np.quantile(draws, (0.025, 0.975), axis=0))


def _distance(difference: np.ndarray, draws: np.ndarray, p: float) -> Distance:
    """Computes the total variation distance, as the sum over classes with a surplus.

    All resamples sum over the same classes; summing over the classes with a surplus in
    each resample would overestimate the distance. The interval includes zero if the
    test does not reject that there is no bias.
    """
    surplus = difference > 0
    low, high = np.quantile(draws[:, surplus].sum(axis=1), (0.025, 0.975))
    value = difference[surplus].sum() if np.isfinite(difference).all() else np.nan
    return Distance(
        float(value),
        0.0 if p >= ALPHA and np.isfinite(value) else float(max(low, 0.0)),
        float(min(max(high, 0.0), 1.0)),
    )


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _sampled(key: jax.Array, probs: Any) -> np.ndarray:
    probs = np.asarray(probs)
    num_numbers = max(1, int(np.prod(probs.shape[1:])))
    most = min(MOST_POOL, max(_LEAST_POOL, _MOST_ENTRIES // num_numbers))
    if len(probs) <= most:
        return probs
    return probs[np.sort(_generator(key).choice(len(probs), most, replace=False))]
