"""How the classes are shared out in the pool, told from a classifier's outputs alone.

Everything here rests on `ASSUMPTION`: under it, a classifier that errs in the pool as
it errs on the validation set tells by its outputs how often each class occurs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fkjax.base import UserError, key_for
from fkjax.label_shift.calibration import (
    fit_calibration,
    log_probabilities,
    no_calibration,
    softmax,
)
from fkjax.label_shift.checks import (
    checked_labels,
    checked_names,
    checked_probabilities,
)
from fkjax.label_shift.estimators import (
    bbse_estimate,
    confusion_matrix,
    em_estimate,
    solve_bbse,
    solve_em,
)
from fkjax.label_shift.types import Bootstrap, Distance, Found, Shares, Shift
from fkjax.label_shift.wording import ALPHA, cautions_of, sentence_of, verdict_of

NUM_RESAMPLES = 200
MOST_POOL = 100_000  # examples: the validation set's size limits what more could say
_MOST_ENTRIES = 2_000_000  # of [N, C]: EM reads them thousands of times
_LEAST_POOL = 5_000  # examples, however many the classes are
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
    """Tells how the pool's class balance differs from the validation set's.

    EM is given probabilities calibrated on the validation set; where that does not mend
    them, its intervals are too narrow, and BBSE goes first. The intervals are those
    of the percentile bootstrap, at 95 %, of pool and validation examples alike. The
    latter are drawn within each class, for both estimates depend on them by p(x | y)
    alone, and so that no draw lacks a class; each draw calibrates anew. That the
    validation set's own shares are uncertain is drawn apart, from the Dirichlet
    distribution of its counts (the Bayesian bootstrap).

    Whether there is a bias at all is a permutation test, exact at any size: that the
    model predicts each class equally often in both sets, by Pearson's statistic.

    Args:
        pool_probs: the classifier's probabilities on unlabelled examples of the pool; a
            random part is looked at of more than 100,000, or of more than makes two
            million numbers and is 5,000. Shape [N, C].
        validation_probs: those on the validation set. Shape [M, C].
        validation_labels: its true classes. Shape [M].
        classes: their names. Length C.
        seed: of every random choice.
        num_resamples: of the bootstrap, 40 or more.

    Raises:
        UserError: if these are no probabilities, the shapes do not fit, or a class has
            no validation example.
    """
    if num_resamples < 40:
        raise UserError(
            f"a 95 % interval takes 40 resamples or more, got {num_resamples}"
        )
    key = key_for(jax.random.key(seed), "label shift")
    names, probs = (
        checked_names(classes),
        checked_probabilities(validation_probs, "validation set"),
    )
    pool = checked_probabilities(_sampled(key_for(key, "pool"), pool_probs), "pool")
    if {pool.shape[1], probs.shape[1]} != {len(names)}:
        raise UserError(
            f"the probabilities must have a column for each of the {len(names)} "
            f"classes, but the pool's have {pool.shape[1]}, the validation set's "
            f"{probs.shape[1]}"
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
        names,
        _shares(prior, prior_draws),
        em,
        bbse,
        found.em.estimate.problem,
        found.bbse.estimate.problem,
        "" if problem else "em" if by_em else "bbse",
        ratio,
        distance,
        p,
        verdict,
        sentence_of(verdict, p, distance, ratio, problem, names, len(labels)),
        list(cautions_of(counts, found, names)),
        len(pool),
        len(labels),
        num_resamples,
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
        confusion_matrix(predicted, labels, once, num_classes),
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
            # Not from a share of zero, which no step of EM leaves.
            em_draws[i] = solve_em(
                softmax(own, pool_z[there]) / prior,
                pool_times[there],
                0.9 * em.prior + 0.1 * prior,
                tolerance=1e-2,
            )
        if not bbse.problem:
            bbse_draws[i] = solve_bbse(
                confusion_matrix(predicted, labels, times, num_classes),
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
    """How much surer the model is in the pool than label shift explains.

    If p(x | y) is the same in both, the mean of anything, here of the highest
    probability, is the mean over classes of that on the validation set.
    """
    sizes = np.bincount(labels, weights, len(prior))
    means = np.bincount(labels, weights * top, len(prior)) / sizes
    return float(pool_mean - prior @ means)


def _homogeneity(
    key: jax.Array, pool_counts: np.ndarray, validation_counts: np.ndarray
) -> float:
    """The p of a permutation test that two sets have the same shares."""
    both = pool_counts + validation_counts
    share = both / both.sum()
    num = validation_counts.sum()

    def statistic(counts: np.ndarray) -> np.ndarray:
        # Pearson's of both rows, but for a factor: what the one has the other lacks.
        return ((counts - num * share) ** 2 / np.maximum(both, 1)).sum(axis=-1)

    drawn = _generator(key).multivariate_hypergeometric(
        both, num, size=_NUM_PERMUTATIONS, method="marginals"
    )
    reached = statistic(drawn) >= statistic(validation_counts) * (1 - 1e-9)
    return float((1 + reached.sum()) / (1 + _NUM_PERMUTATIONS))


def _shares(value: np.ndarray, draws: np.ndarray) -> Shares:
    return Shares(value, *np.quantile(draws, (0.025, 0.975), axis=0))


def _distance(difference: np.ndarray, draws: np.ndarray, p: float) -> Distance:
    """The total variation distance: what the classes with a surplus have of it.

    In the draws it is taken over the same classes: over those of each draw it would be
    larger than what it estimates, by their scatter. Zero is in the interval if the test
    does not exclude it.
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
