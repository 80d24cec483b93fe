"""The class balance of a pool, estimated from a classifier's outputs only.

All estimates assume label shift (`fkjax.label_shift.wording.ASSUMPTION`): a classifier
then errs in the pool as it errs on the validation set, so that its outputs determine
how often each class occurs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fkjax.base import UserError, key_for, seed_key
from fkjax.label_shift.checks import (
    checked_labels,
    checked_names,
    checked_probabilities,
    numbers_of_labels,
)
from fkjax.label_shift.estimators import (
    Estimate,
    confusion_counts,
    posterior,
    solve_bbse,
    solve_em,
)
from fkjax.label_shift.resampling import (
    Draws,
    class_weights,
    draw_shares,
    mean_features,
    with_pseudo_examples,
)
from fkjax.label_shift.scaling import (
    fit_calibration,
    log_probabilities,
    softmax,
)
from fkjax.label_shift.types import Bootstrap, Distance, Found, Shares, Shift
from fkjax.label_shift.wording import (
    ALPHA,
    bbse_problem,
    cautions_of,
    em_problem,
    sentence_of,
    verdict_of,
)

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
    classes: Sequence[Any],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    tell: Callable[[str], object] = lambda step: None,
) -> Shift:
    """Estimates how the pool's class balance differs from the validation set's.

    The balance is estimated twice: by black-box shift estimation (BBSE), and by
    expectation maximization (EM) with probabilities calibrated on the validation set.
    BBSE comes first, because it needs no calibration, unless EM determines the shares
    of more classes.

    The 95 % intervals are percentile intervals of the draws of
    `fkjax.label_shift.resampling`: a Bayesian bootstrap of the pool and, within each
    class, of the validation set. Each draw solves linear equations whose coefficients
    are means over the examples of a class, also for EM, so that the intervals hold for
    probabilities that cannot be calibrated. They are extended to the estimate. The
    shares of the validation set itself are drawn separately, from the Dirichlet
    distribution of its counts.

    A share is not determined, and is NaN, if its standard error is 1/8 or more, or is
    half or more of the larger of its estimate and the class's share in the validation
    set. The Australian Bureau of Statistics calls estimates with relative standard
    errors above 50 % too unreliable for general use (6239.0, technical note). BBSE also
    does not determine the share of a class as which no validation example is predicted.
    EM determines none if a class always has the probability zero, because examples of
    that class then count as those of others.

    A permutation test with Pearson's statistic, exact at any size, decides whether
    there is a bias at all. Its null hypothesis: the model predicts each class equally
    often in both sets.

    Args:
        pool_probs: classifier's probabilities for unlabeled examples of the pool. Of a
            large pool, a random subset of 2,000,000 / C examples is used, but no fewer
            than 5,000 and no more than 100,000. Shape [N, C].
        validation_probs: classifier's probabilities for the validation set. Shape
            [M, C].
        validation_labels: true classes of the validation set: names; or, if the names
            are text, positions. Shape [M].
        classes: names of the classes, in the order of the probabilities. Length C.
        seed: seed of all random choices.
        num_resamples: number of bootstrap resamples, 40 or more.
        tell: called with the name of each step as it begins.

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
    key = key_for(seed_key(seed), "label shift")
    given = [c.item() if isinstance(c, np.generic) else c for c in classes]
    names = checked_names(given)
    probs = checked_probabilities(validation_probs, "validation set")
    pool = np.asarray(pool_probs)
    num_numbers = int(np.prod(pool.shape[1:]))
    pool = pool[part_of_pool(len(pool), num_numbers, seed=seed)]
    pool = checked_probabilities(pool, "pool")
    if {pool.shape[1], probs.shape[1]} != {len(names)}:
        raise UserError(
            f"the probabilities must have one column for each of the {len(names)} "
            f"classes, got {pool.shape[1]} columns for the pool and {probs.shape[1]} "
            "for the validation set"
        )
    labels = checked_labels(
        numbers_of_labels(validation_labels, given, names), len(probs), names
    )
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
        key_for(key, "bootstrap"), pool, probs, labels, names, num_resamples, tell
    )
    em, bbse = (_shares(f.estimate.prior, f.draws) for f in (found.em, found.bbse))
    best = found.em if found.best == "em" else found.bbse
    ratio = _shares(best.estimate.prior / prior, best.draws / prior_draws, np.inf)
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
        best=found.best if np.isfinite(best.estimate.prior).any() else "",
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
    tell: Callable[[str], object],
) -> Bootstrap:
    num_classes = len(names)
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    z, pool_z = log_probabilities(probs), log_probabilities(pool)
    predicted, pool_predicted = probs.argmax(axis=1), pool.argmax(axis=1)
    tell("calibrating the probabilities")
    fitted = fit_calibration(z, labels)
    odds, pool_odds = (softmax(fitted, each) / prior for each in (z, pool_z))
    tell("estimating the class shares")
    em = solve_em(pool_odds, prior)
    counts = confusion_counts(predicted, labels, num_classes)
    pool_shares = np.bincount(pool_predicted, minlength=num_classes) / len(pool)
    bbse = solve_bbse(counts, pool_shares)
    tell("computing the intervals of the class shares")
    middle = (em + prior) / 2  # positive: a share of zero would ignore its class
    one_hot = np.eye(num_classes)
    features, pool_features = (
        np.concatenate(
            [one_hot[p.argmax(axis=1)], posterior(o, middle), p.max(axis=1)[:, None]],
            axis=1,
        )
        for p, o in ((probs, odds), (pool, pool_odds))
    )
    generator = _generator(key)
    examples = with_pseudo_examples(generator, labels, num_classes)
    weights = class_weights(generator, examples, num_resamples)
    means = mean_features(generator, pool_features, features, labels, num_resamples)
    by_bbse, by_em = (
        draw_shares(
            generator,
            features[:, part],
            examples,
            weights,
            means[:, part],
            start,
            prior,
        )
        for part, start in (
            (slice(num_classes), bbse),
            (slice(num_classes, 2 * num_classes), em),
        )
    )
    # Examples of a class that always has the probability zero count as others' in EM.
    silent = (probs.max(axis=0) == 0) & (pool.max(axis=0) == 0)
    by_em = by_em._replace(is_determined=by_em.is_determined & ~silent.any())
    never = counts.sum(axis=1) == 0
    by_bbse = by_bbse._replace(is_determined=by_bbse.is_determined & ~never)
    best = "em" if by_em.is_determined.sum() > by_bbse.is_determined.sum() else "bbse"
    prior_of, draws = {"em": (em, by_em), "bbse": (bbse, by_bbse)}[best]
    top = features[:, -1]
    gap_draws = means[:, -1] - (
        (weights * draws.shares[:, examples.labels]) @ top[examples.rows]
    )
    return Bootstrap(
        _found(em, by_em, em_problem(~by_em.is_determined, silent, names, len(labels))),
        _found(
            bbse,
            by_bbse,
            bbse_problem(~by_bbse.is_determined, never, names, len(labels)),
        ),
        best,
        (_gap(prior_of, top, labels, float(pool_features[:, -1].mean())), gap_draws),
    )


def _found(prior: np.ndarray, draws: Draws, problem: str) -> Found:
    """Returns an estimate and its draws, NaN for classes that are not determined."""
    known = draws.is_determined
    return Found(
        Estimate(np.where(known, prior, np.nan), problem),
        np.where(known, draws.shares, np.nan),
    )


def _gap(
    prior: np.ndarray, top: np.ndarray, labels: np.ndarray, pool_mean: float
) -> float:
    """Computes how much more confident the model is in the pool than expected.

    Under label shift, p(x | y) is the same in both sets. The mean of the highest
    probability over the pool is then the mean over the classes of its mean on the
    validation set, weighted by `prior`.
    """
    means = np.bincount(labels, top, len(prior)) / np.bincount(labels)
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


def _shares(value: np.ndarray, draws: np.ndarray, most: float = 1.0) -> Shares:
    """Returns percentile intervals, extended to the value, from 0 to `most`."""
    low, high = np.quantile(draws, (0.025, 0.975), axis=0).clip(0, most)
    return Shares(value, np.minimum(low, value), np.maximum(high, value))


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


def part_of_pool(num_pool: int, num_classes: int, *, seed: int = 0) -> np.ndarray:
    """Returns the positions of the pool examples that `bias` uses.

    Only their probabilities need to be computed:
    `bias(probs[part_of_pool(*probs.shape)], ...)` is `bias(probs, ...)`.

    >>> part_of_pool(4, 10).tolist(), len(part_of_pool(50_000, 1_000))
    ([0, 1, 2, 3], 5000)

    Args:
        num_pool: number of unlabeled examples of the pool, N.
        num_classes: number of classes, C.
        seed: seed that `bias` is given.

    Returns:
        Positions in ascending order: all N, or a random subset of them. Shape [n].
    """
    most = min(MOST_POOL, max(_LEAST_POOL, _MOST_ENTRIES // max(1, num_classes)))
    if num_pool <= most:
        return np.arange(num_pool)
    key = key_for(seed_key(seed), "label shift")
    generator = _generator(key_for(key, "pool"))
    return np.sort(generator.choice(num_pool, most, replace=False))
