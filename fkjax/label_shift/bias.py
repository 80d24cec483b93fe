"""How the classes are shared out in the pool, told from a classifier's outputs alone.

Everything here rests on `ASSUMPTION`: under it, a classifier that errs in the pool as
it errs on the validation set tells by its outputs how often each class occurs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import nnls

from fkjax.base import UserError, key_for

ASSUMPTION = (
    "This assumes label shift: within each class, the examples of the pool look like "
    "those of the validation set, and only the shares of the classes differ."
)
BREAKS = (
    "It does not hold, and the estimates mislead, where the pool's examples of a class "
    "look different (another camera, site or season), where the pool has classes that "
    "the validation set lacks, or where the model was trained on examples of either."
)

NUM_RESAMPLES = 200
MOST_POOL = 100_000  # examples: the validation set's size limits what more could say
_MOST_ENTRIES = 2_000_000  # of [N, C]: EM reads them thousands of times
_LEAST_POOL = 5_000  # examples, however many the classes are
_NUM_PERMUTATIONS = 9999
_ALPHA = 0.05
_LARGE = 0.2  # a distance that must be excluded before one says "no sign"
_FEW = 10  # examples of a class, of whose scatter a bootstrap sees too little
_GAP = 0.02  # between two shares, or two means of confidence, that is worth a word
_SURE = 4  # standard errors from zero, for one of many classes
_MOST_STEPS = 3000  # of EM
_TINY = 1e-30  # stands for a probability that underflowed


class Estimate(NamedTuple):
    """One estimate of the pool's class prior.

    Attributes:
        prior: the share of each class; NaN if it is not determined. Shape [C].
        problem: why it is not determined, as a part of a sentence; empty if it is.
    """

    prior: np.ndarray
    problem: str = ""


class Shares(NamedTuple):
    """A number for each class with its 95 % interval; NaN where it is not known.

    Attributes:
        value: Shape [C].
        low: the interval's lower end. Shape [C].
        high: its upper end. Shape [C].
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Distance(NamedTuple):
    """One number with its 95 % interval.

    Attributes:
        value: the number.
        low: the interval's lower end.
        high: its upper end.
    """

    value: float
    low: float
    high: float


class Calibration(NamedTuple):
    """Bias-corrected temperature scaling: p'(y | x) ~ p(y | x)^slope exp(bias_y).

    Attributes:
        slope: 1 / temperature.
        bias: Shape [C].
    """

    slope: float
    bias: np.ndarray


class Shift(NamedTuple):
    """The pool's class balance against the validation set's.

    Attributes:
        classes: their names. Length C.
        validation: the shares in the validation set.
        em: those in the pool, by maximum likelihood.
        bbse: those in the pool, by black-box shift estimation.
        em_problem: why `em` is not determined, or nothing.
        bbse_problem: why `bbse` is not determined, or nothing.
        best: which of the two is to be believed first, "bbse" or "em": the former if it
            is determined, for it rests on no calibration; empty if neither is.
        ratio: a class's share in the pool over that in the validation set, by the best.
        distance: the total variation distance of the two priors, by the best: the share
            of the pool that would have to be of other classes.
        p: of the test that the model predicts the classes equally often in both.
        verdict: "biased", "no sign" or "cannot be told".
        sentence: the verdict, a colon and what speaks for it.
        cautions: sentences on what weakens it.
        num_pool: examples of the pool that were looked at.
        num_validation: M.
        num_resamples: of the bootstrap.
    """

    classes: Sequence[str]
    validation: Shares
    em: Shares
    bbse: Shares
    em_problem: str
    bbse_problem: str
    best: str
    ratio: Shares
    distance: Distance
    p: float
    verdict: str
    sentence: str
    cautions: Sequence[str]
    num_pool: int
    num_validation: int
    num_resamples: int

    @property
    def pool(self) -> Shares:
        """The best estimate of the pool's shares; NaN if there is none."""
        return self.em if self.best == "em" else self.bbse


def em_prior(pool_probs: Any, validation_prior: Any) -> Estimate:
    """The maximum-likelihood prior of the pool, by expectation maximisation.

    Maximises sum_i log sum_y q_y p(y | x_i) / p_y over q (Saerens, Latinne and
    Decaestecker 2002), which is concave. The steps, extrapolated as by Varadhan and
    Roland 2008, end when the log-likelihood is within 1e-4 of its maximum, by the bound
    N log max_y g_y, where q_y g_y is the next step.

    The quotient p(y | x) / p_y stands for p(x | y), and does so only if p(y | x) is
    calibrated: networks are too sure, and then q is wrong however large the pool is. So
    give it probabilities that `calibrated` made, as `bias` does.

    >>> probs = np.array([[0.9, 0.1]] * 80 + [[0.1, 0.9]] * 20)
    >>> em_prior(probs, [0.5, 0.5]).prior.round(3).tolist()
    [0.875, 0.125]

    Args:
        pool_probs: the classifier's probabilities. Shape [N, C].
        validation_prior: the prior at which it is calibrated, each above 0. Shape [C].

    Raises:
        UserError: if these are no probabilities.
    """
    probs = _probabilities(pool_probs, "pool")
    prior = np.asarray(validation_prior, float)
    if prior.shape != probs.shape[1:] or not (prior > 0).all():
        raise UserError(
            f"the validation prior must have a share above 0 for each of the "
            f"{probs.shape[1]} classes, got {prior.tolist()}"
        )
    return _em_estimate(probs / prior, prior / prior.sum(), range(len(prior)))


def bbse_prior(
    pool_predicted: Any,
    validation_predicted: Any,
    validation_labels: Any,
    num_classes: int,
) -> Estimate:
    """The prior of the pool by black-box shift estimation, with hard predictions.

    Solves sum_y A_ky q_y = m_k by least squares with q >= 0, then scales q to sum to
    one; A_ky is the share of the validation examples of class y that are predicted as
    k, m_k the share of the pool that is (Lipton, Wang and Smola 2018). It is not
    determined where A's smallest singular value is within three standard errors of
    zero, as when a class is never predicted.

    >>> labels = np.repeat([0, 1], 10)
    >>> predicted = np.where(np.arange(20) % 10 == 0, 1 - labels, labels)  # 90 % right
    >>> pool = np.repeat([0, 1], [82, 18])
    >>> bbse_prior(pool, predicted, labels, 2).prior.round(3).tolist()
    [0.9, 0.1]

    Args:
        pool_predicted: predicted classes of the pool. Shape [N].
        validation_predicted: those of the validation set. Shape [M].
        validation_labels: its true ones. Shape [M].
        num_classes: C.

    Raises:
        UserError: if a set is empty, the lengths differ, a number is no class's, or a
            class has no validation example.
    """
    names = _names(range(num_classes))
    pool = _numbers(pool_predicted, names, "predictions of the pool")
    predicted = _numbers(
        validation_predicted, names, "predictions of the validation set"
    )
    labels = _labels(validation_labels, len(predicted), names)
    counts = _confusion(predicted, labels, np.ones(len(labels)), num_classes)
    shares = np.bincount(pool, minlength=num_classes) / len(pool)
    return _bbse_estimate(counts, shares, names)


def calibration(probs: Any, labels: Any) -> Calibration:
    """Fits bias-corrected temperature scaling to labelled examples.

    Alexandari, Kundaje and Shrikumar 2020 ("BCTS"). A Gaussian prior of variance 1 on
    the slope, around 1, and on each bias keeps them finite where no example is wrong.

    Args:
        probs: the classifier's probabilities. Shape [M, C].
        labels: the true classes. Shape [M].

    Raises:
        UserError: as `bias`.
    """
    probs = _probabilities(probs, "validation set")
    labels = _labels(labels, len(probs), _names(range(probs.shape[1])))
    return _fit(_log(probs), labels, np.ones(len(probs)), _identity(probs.shape[1]))


def calibrated(calibration: Calibration, probs: Any) -> np.ndarray:
    """The probabilities that a calibration makes of others. Shape [N, C]."""
    return _softmax(calibration, _log(np.asarray(probs, float)))


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
    names, probs = _names(classes), _probabilities(validation_probs, "validation set")
    pool = _probabilities(_sampled(key_for(key, "pool"), pool_probs), "pool")
    if {pool.shape[1], probs.shape[1]} != {len(names)}:
        raise UserError(
            f"the probabilities must have a column for each of the {len(names)} "
            f"classes, but the pool's have {pool.shape[1]}, the validation set's "
            f"{probs.shape[1]}"
        )
    labels = _labels(validation_labels, len(probs), names)
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
    verdict = _verdict(p, distance, problem)
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
        _sentence(verdict, p, distance, ratio, problem, names, len(labels)),
        list(_cautions(counts, found, names)),
        len(pool),
        len(labels),
        num_resamples,
    )


class _Found(NamedTuple):
    """An estimate, and those of the resamples. Shape [num_resamples, C]."""

    estimate: Estimate
    draws: np.ndarray


class _Bootstrap(NamedTuple):
    """Both, and the gap of `_gap` with those of the resamples."""

    em: _Found
    bbse: _Found
    gap: tuple[float, np.ndarray]


def _bootstrap(
    key: jax.Array,
    pool: np.ndarray,
    probs: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    num_resamples: int,
) -> _Bootstrap:
    num_classes, once = len(names), np.ones(len(labels))
    prior = np.bincount(labels, minlength=num_classes) / len(labels)
    z, pool_z = _log(probs), _log(pool)
    predicted, pool_predicted = probs.argmax(axis=1), pool.argmax(axis=1)
    top, pool_top = probs.max(axis=1), pool.max(axis=1)
    fitted = _fit(z, labels, once, _identity(num_classes))
    em = _em_estimate(_softmax(fitted, pool_z) / prior, prior, names)
    bbse = _bbse_estimate(
        _confusion(predicted, labels, once, num_classes),
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
            own = _fit(z, labels, times, fitted)
            # Not from a share of zero, which no step of EM leaves.
            em_draws[i] = _em(
                _softmax(own, pool_z[there]) / prior,
                pool_times[there],
                0.9 * em.prior + 0.1 * prior,
                tolerance=1e-2,
            )
        if not bbse.problem:
            bbse_draws[i] = _bbse(
                _confusion(predicted, labels, times, num_classes),
                np.bincount(pool_predicted, pool_times, num_classes) / len(pool),
            )
        best = em_draws[i] if bbse.problem else bbse_draws[i]
        mean = float((pool_times * pool_top).sum() / len(pool))
        gap_draws[i] = _gap(best, top, labels, times, mean)
    return _Bootstrap(_Found(em, em_draws), _Found(bbse, bbse_draws), (gap, gap_draws))


def _em_estimate(
    likelihoods: np.ndarray, start: np.ndarray, names: Iterable[Any]
) -> Estimate:
    """`_em`, unless the likelihood is too flat for it: see `_em_problem`."""
    once = np.ones(len(likelihoods))
    prior = _em(likelihoods, once, start, tolerance=1e-4)
    if problem := _em_problem(likelihoods, prior, list(names)):
        return Estimate(np.full(len(prior), np.nan), problem)
    return Estimate(prior)


def _em(
    likelihoods: np.ndarray, weights: np.ndarray, start: np.ndarray, *, tolerance: float
) -> np.ndarray:
    """The q that maximises sum_i weights_i log sum_y q_y likelihoods_iy.

    Args:
        likelihoods: Shape [N, C].
        weights: Shape [N].
        start: each above 0. Shape [C].
        tolerance: how far from the maximum it may end.
    """
    total = weights.sum()
    columns = np.ascontiguousarray(likelihoods.T)  # long rows are summed much faster

    def step(q: np.ndarray) -> tuple[np.ndarray, float, float]:
        mixed = np.einsum("yi,y->i", columns, q)
        factor = np.einsum("yi,i->y", columns, weights / mixed) / total
        new = q * factor
        bound = float(total * np.log(factor.max()))
        return new / new.sum(), bound, float((weights * np.log(mixed)).sum())

    q, fallback, reached = start, start, -np.inf
    for _ in range(_MOST_STEPS):
        first, bound, value = step(q)
        if value < reached:  # extrapolated too far
            q, reached = fallback, -np.inf
            continue
        if bound <= tolerance:
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


def _em_problem(
    likelihoods: np.ndarray, prior: np.ndarray, names: Sequence[Any]
) -> str:
    """Names two classes if some change of the shares by a half would not be noticed.

    That is a direction along which the standard error, by the Fisher information of the
    N examples, is one half or more.
    """
    scores = likelihoods / (likelihoods @ prior)[:, None]
    center = np.eye(len(prior)) - 1 / len(prior)  # shares change by what sums to zero
    information = center @ (scores.T @ scores) @ center
    values, vectors = np.linalg.eigh(information)
    # The first is that of the direction out of the simplex, zero by `center`.
    if values[1] > 4:
        return ""
    pair = sorted(np.argsort(-np.abs(vectors[:, 1]))[:2])
    return (
        f"the probabilities of {len(likelihoods):,} pool examples say too little of "
        f"{names[pair[0]]} against {names[pair[1]]}"
    )


def _bbse_estimate(
    counts: np.ndarray, pool_shares: np.ndarray, names: Iterable[Any]
) -> Estimate:
    if problem := _confusion_problem(counts, list(names)):
        return Estimate(np.full(len(counts), np.nan), problem)
    return Estimate(_bbse(counts, pool_shares))


def _bbse(counts: np.ndarray, pool_shares: np.ndarray) -> np.ndarray:
    conditional = counts / counts.sum(axis=0)
    try:
        prior = np.linalg.solve(conditional, pool_shares)
    except np.linalg.LinAlgError:  # of a resample
        prior = np.full(len(counts), -1.0)
    if not (prior >= 0).all():
        prior = nnls(conditional, pool_shares)[0]
    return prior / prior.sum()


def _confusion_problem(counts: np.ndarray, names: Sequence[Any]) -> str:
    never = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(never):
        shown = _listed(names, never)
        return f"the model predicts no validation example as {shown}"
    sizes = counts.sum(axis=0)
    conditional = counts / sizes
    left, values, right = np.linalg.svd(conditional)
    u, v = left[:, -1], right[-1]
    # Of u^T A v, to first order the singular value of a matrix of drawn counts.
    variances = (u**2) @ conditional - (u @ conditional) ** 2
    error = np.sqrt(np.maximum(variances, 0) / sizes @ v**2)
    if values[-1] > max(3 * error, 1e-6):
        return ""
    pair = sorted(np.argsort(-np.abs(v))[:2])
    return f"the predictions hardly tell {names[pair[0]]} from {names[pair[1]]}"


def _confusion(
    predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray, num_classes: int
) -> np.ndarray:
    """How often each class (column) is predicted as each (row). Shape [C, C]."""
    cells = predicted * num_classes + labels
    return np.bincount(cells, weights, num_classes**2).reshape(num_classes, num_classes)


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


def _identity(num_classes: int) -> Calibration:
    return Calibration(1.0, np.zeros(num_classes))


def _log(probs: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probs, _TINY))


def _softmax(calibration: Calibration, z: np.ndarray) -> np.ndarray:
    logits = calibration.slope * z + calibration.bias
    logits -= logits.max(axis=1, keepdims=True)
    probs = np.exp(logits, out=logits)
    probs /= probs.sum(axis=1, keepdims=True)
    return probs


def _fit(
    z: np.ndarray, labels: np.ndarray, weights: np.ndarray, start: Calibration
) -> Calibration:
    """Newton's method on the penalised cross entropy, which is convex."""
    rows, num_classes = np.arange(len(z)), z.shape[1]
    at_one = np.eye(num_classes + 1)[0]

    def unpack(theta: np.ndarray) -> Calibration:
        return Calibration(float(theta[0]), theta[1:])

    def loss(theta: np.ndarray) -> float:
        true = _softmax(unpack(theta), z)[rows, labels]
        away = theta - at_one
        return float(-weights @ _log(true) + away @ away / 2)

    theta = np.concatenate([[start.slope], start.bias])
    value = loss(theta)
    for _ in range(50):
        probs = _softmax(unpack(theta), z)
        weighted = probs * weights[:, None]
        mean = (probs * z).sum(axis=1)
        gradient = theta - at_one
        gradient[0] += weights @ (mean - z[rows, labels])
        gradient[1:] += weighted.sum(axis=0)
        gradient[1:] -= np.bincount(labels, weights, num_classes)
        hessian = np.eye(num_classes + 1)
        hessian[0, 0] += (weighted * (z - mean[:, None]) ** 2).sum()
        mixed = (weighted * (z - mean[:, None])).sum(axis=0)
        hessian[0, 1:] += mixed
        hessian[1:, 0] += mixed
        hessian[1:, 1:] += np.diag(weighted.sum(axis=0)) - weighted.T @ probs
        move = np.linalg.solve(hessian, gradient)
        decrement = gradient @ move
        size = 1.0
        while (new := loss(theta - size * move)) > value and size > 1e-6:
            size /= 2
        if new > value:  # rounding
            break
        theta, value = theta - size * move, new
        if decrement < 1e-6:
            break
    return unpack(theta)


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
        0.0 if p >= _ALPHA and np.isfinite(value) else float(max(low, 0.0)),
        float(min(max(high, 0.0), 1.0)),
    )


def _verdict(p: float, distance: Distance, problem: str) -> str:
    if p < _ALPHA:
        return "biased"
    return "cannot be told" if problem or distance.high > _LARGE else "no sign"


def _sentence(
    verdict: str,
    p: float,
    distance: Distance,
    ratio: Shares,
    problem: str,
    names: Sequence[str],
    num_validation: int,
) -> str:
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    high = percent(distance.high)
    if verdict == "biased":
        text = (
            "The pool is biased: the model predicts its classes in other shares than "
            f"the validation set's, by more than chance ({chance})"
        )
        if problem:
            return f"{text}; by how much is not determined, for {problem}."
        low = percent(distance.low).removesuffix(" %")
        return (
            f"{text}. Some {percent(distance.value)} of it ({low} to {high}) would "
            "have to be of other classes for the two balances to agree"
            f"{_extremes(ratio, names)}."
        )
    same = (
        "the model predicts the classes about as often in the pool as in the "
        f"validation set ({chance})"
    )
    if verdict == "no sign":
        return (
            f"No sign that the pool is biased: {same}, and at most about {high} of it "
            "would have to be of other classes for the two balances to agree."
        )
    if problem:
        return f"Cannot be told: {same}, but {problem}."
    return (
        f"Cannot be told: {same}, but for all that {num_validation} validation "
        f"examples say, up to {high} of it may have to be of other classes for the two "
        "balances to agree."
    )


def _extremes(ratio: Shares, names: Sequence[str]) -> str:
    """The class that is surely the most too frequent, and the most too rare."""
    text = ""
    for what, is_sure, order in (
        ("too frequent", ratio.low > 1, -ratio.low),
        ("too rare", ratio.high < 1, ratio.high),
    ):
        sure = [int(y) for y in np.argsort(order, kind="stable") if is_sure[y]]
        if sure:
            y, rest = sure[0], len(sure) - 1
            text += (
                f"; {what} is class {names[y]}, at {times(ratio.value[y])} times its "
                f"share ({times(ratio.low[y])} to {times(ratio.high[y])})"
            )
            text += f", and {rest} more" if rest else ""
    return text


def _cautions(
    counts: np.ndarray, found: _Bootstrap, names: Sequence[str]
) -> Iterator[str]:
    few = np.flatnonzero(counts < _FEW)
    if len(few):
        yield (
            f"The validation set has fewer than {_FEW} examples of "
            f"{_listed(names, few)}: that is too few for intervals to be trusted."
        )
    (em, em_draws), (bbse, bbse_draws) = found.em, found.bbse
    difference = em.prior - bbse.prior
    apart = _is_sure(difference, (em_draws - bbse_draws).std(axis=0))
    if apart.any():
        yield (
            f"The two estimates disagree on {_listed(names, np.flatnonzero(apart))} by "
            "more than chance: then EM's probabilities are not calibrated well enough, "
            "or label shift does not hold."
        )
    gap, draws = found.gap
    if _is_sure(gap, draws.std()):
        more = "surer" if gap > 0 else "less sure"
        yield (
            f"In the pool the model is {more} of its predictions than the estimated "
            f"balance explains, by {abs(100 * gap):.0f} percentage points on average: "
            "that is a sign that label shift does not hold, and that the pool's "
            "examples look different."
        )


def _is_sure(value: Any, error: Any) -> Any:
    """Whether a difference is large, and not by chance; not if it is NaN."""
    return (np.abs(value) > _GAP) & (np.abs(value) > _SURE * error)


def times(ratio: float) -> str:
    """How many times as frequent, to two digits behind the point below one.

    >>> times(120.4), times(2.345), times(0.104), times(0.0001), times(float("nan"))
    ('120', '2.3', '0.10', 'under 0.01', '–')
    """
    if not np.isfinite(ratio):
        return "–"
    if ratio < 0.01:
        return "under 0.01"
    return f"{ratio:.{0 if ratio >= 9.95 else 1 if ratio >= 0.995 else 2}f}"


def percent(share: float) -> str:
    """A share in percent, with a digit behind the point below ten.

    >>> percent(0.382), percent(0.0418), percent(0.0), percent(float("nan"))
    ('38 %', '4.2 %', '0 %', '–')
    """
    if not np.isfinite(share):
        return "–"
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.1f} %"


def _listed(names: Sequence[Any], at: np.ndarray) -> str:
    shown = ", ".join(str(names[int(i)]) for i in at[:5])
    return f"{shown} and {len(at) - 5} more" if len(at) > 5 else shown


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _sampled(key: jax.Array, probs: Any) -> np.ndarray:
    probs = np.asarray(probs)
    num_numbers = max(1, int(np.prod(probs.shape[1:])))
    most = min(MOST_POOL, max(_LEAST_POOL, _MOST_ENTRIES // num_numbers))
    if len(probs) <= most:
        return probs
    return probs[np.sort(_generator(key).choice(len(probs), most, replace=False))]


def _names(classes: Iterable[Any]) -> list[str]:
    names = [str(name) for name in classes]
    if len(names) < 2:
        raise UserError(f"a class balance takes two classes or more, got {len(names)}")
    return names


def _probabilities(probs: Any, what: str) -> np.ndarray:
    probs = np.asarray(probs, float)
    if probs.ndim != 2 or 0 in probs.shape:
        raise UserError(
            f"the probabilities of the {what} must have a row for each of one or more "
            f"examples and a column for each class, got shape {probs.shape}"
        )
    # NaN fails both comparisons.
    is_one = (probs >= 0).all(axis=1) & (np.abs(probs.sum(axis=1) - 1) < 1e-3)
    if not is_one.all():
        row = int(np.argmin(is_one))
        raise UserError(
            f"the probabilities of each example of the {what} must be 0 or more and "
            f"sum to 1, but row {row} sums to {probs[row].sum():g}, its lowest being "
            f"{probs[row].min():g}; apply a softmax to logits"
        )
    return probs


def _numbers(values: Any, names: Sequence[str], what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(
            f"the {what} must be a number for each of one or more examples, got shape "
            f"{values.shape}"
        )
    numbers = values.astype(int)
    if (numbers != values).any() or numbers.min() < 0 or numbers.max() >= len(names):
        raise UserError(
            f"the {what} must be the numbers of {len(names)} classes, 0 to "
            f"{len(names) - 1}, but go from {values.min()} to {values.max()}"
        )
    return numbers


def _labels(labels: Any, num: int, names: Sequence[str]) -> np.ndarray:
    labels = _numbers(labels, names, "labels of the validation set")
    if len(labels) != num:
        raise UserError(
            f"the validation set must have a label for each of its {num} predictions, "
            f"got {len(labels)}"
        )
    absent = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(absent):
        raise UserError(
            "the validation set must have an example of each class, but has none of "
            f"{_listed(names, absent)}; add some to tell the pool's balance"
        )
    return labels
