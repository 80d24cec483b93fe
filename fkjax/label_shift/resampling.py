"""Random draws of a pool's class shares, all of them at once.

Under label shift, any features f of the examples satisfy

    mean of f over the pool = sum_y q_y mean of f over class y,

where q are the pool's class shares. With one-hot predictions as f these are the
equations of BBSE (Lipton, Wang and Smola 2018). With the posterior at the shares that
EM found, the maximum of the likelihood solves them if the probabilities are calibrated.
The means over a class are those of the validation set in either case, so that the draws
of EM hold for probabilities that are not calibrated, too.

In each draw the examples have random weights (the Bayesian bootstrap, Rubin 1981).
Pseudo-examples allow for what a small set does not show: the confusions of a class of
which it has few examples, and classes of which it has none.
"""

from typing import NamedTuple

import numpy as np

_MOST_PSEUDO = 16  # for each class
_MOST_PSEUDO_IN_ALL = 4000  # but no fewer than four for each class
_NUM_STEPS = 4
_LEAST_NOISE = 1e-5  # of a mean of features, which are probabilities
_MOST_DEVIATION = 0.5  # of a number from 0 to 1
_MOST_ENTRIES = 4_000_000  # of the weights of some draws


class Weighted(NamedTuple):
    """Examples, pseudo-examples among them, with random weights.

    Attributes:
        rows: position of each in its set. Shape [L] int.
        labels: class of each. Shape [L] int.
        sizes: expected weight of each; 1 for an example of the set. Shape [L].
    """

    rows: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray


class Draws(NamedTuple):
    """Draws of the class shares.

    Attributes:
        shares: shares in each draw, which can lie outside of 0 to 1. Shape [R, C].
        is_determined: whether the standard error of a share is below 1/8 and below half
            of the larger of its estimate and its share in the validation set. Shape [C]
            bool.
    """

    shares: np.ndarray
    is_determined: np.ndarray


def with_pseudo_examples(
    generator: np.random.Generator, labels: np.ndarray, num_classes: int
) -> Weighted:
    """Adds pseudo-examples to each class, which together weigh as much as one example.

    They look like examples of any class: of each class, or of 4 to 16 classes drawn at
    random. They are the base measure of a Dirichlet process (Ferguson 1973), with the
    total weight of Perks (1947).

    Args:
        generator: source of the draws.
        labels: classes of the validation set, each of which occurs. Shape [M].
        num_classes: number of classes, C.
    """
    most = max(4, _MOST_PSEUDO_IN_ALL // num_classes)
    num = min(num_classes, _MOST_PSEUDO, most)
    all_classes = np.tile(np.arange(num_classes), (num_classes, 1))
    like = generator.permuted(all_classes, axis=1)[:, :num].ravel()
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    within = (generator.uniform(size=len(like)) * counts[like]).astype(int)
    pseudo = order[first[like] + within]
    return Weighted(
        np.append(np.arange(len(labels)), pseudo),
        np.append(labels, np.repeat(np.arange(num_classes), num)),
        np.append(np.ones(len(labels)), np.full(len(pseudo), 1 / num)),
    )


def class_weights(
    generator: np.random.Generator, examples: Weighted, num: int
) -> np.ndarray:
    """Draws weights of examples that sum to one in each class. Shape [num, L]."""
    weights = generator.gamma(examples.sizes, size=(num, len(examples.sizes)))
    order = np.argsort(examples.labels, kind="stable")
    counts = np.bincount(examples.labels)
    totals = np.add.reduceat(weights[:, order], np.cumsum(counts) - counts, axis=1)
    return weights / totals[:, examples.labels]


def mean_features(
    generator: np.random.Generator,
    features: np.ndarray,
    labeled: np.ndarray,
    labels: np.ndarray,
    num: int,
) -> np.ndarray:
    """Draws means of the pool's features, with random weights.

    The validation examples are pseudo-examples. Those of a class together weigh half an
    example, the prior of Jeffreys.

    Args:
        generator: source of the draws.
        features: features of the pool. Shape [N, K].
        labeled: features of the validation set. Shape [M, K].
        labels: its classes. Shape [M].
        num: number of draws, R.

    Returns:
        Means. Shape [R, K].
    """
    sizes = np.append(np.ones(len(features)), 0.5 / np.bincount(labels)[labels])
    features = np.concatenate([features, labeled])
    means = np.empty((num, features.shape[1]))
    most = max(1, _MOST_ENTRIES // len(sizes))
    for start in range(0, num, most):
        weights = generator.gamma(sizes, size=(min(most, num - start), len(sizes)))
        weights /= weights.sum(axis=1, keepdims=True)
        means[start : start + most] = weights @ features
    return means


def draw_shares(
    generator: np.random.Generator,
    features: np.ndarray,
    examples: Weighted,
    weights: np.ndarray,
    pool_means: np.ndarray,
    estimate: np.ndarray,
    prior: np.ndarray,
) -> Draws:
    """Solves the equations of each draw.

    With the difference r(q) of the two sides of the equations, minimizes
    |r(q) / s|^2 + |(q - q0) / t|^2, where s are the standard deviations of r over the
    draws, and q0 is drawn from a normal distribution around the estimate with standard
    deviations t: twice the larger of the estimate and the prior, but at most 1/2. The
    solutions are draws from the posterior of a linear Gaussian model: shares that the
    equations determine solve them, and the others scatter by t.

    Each step of the solution uses the matrix of the expected weights, so that no draw
    needs a factorization of its own.

    Args:
        generator: source of the draws.
        features: features of the validation set. Shape [M, K].
        examples: examples of the validation set and pseudo-examples.
        weights: weights from `class_weights`. Shape [R, L].
        pool_means: means of the pool's features. Shape [R, K].
        estimate: estimated shares. Shape [C].
        prior: shares of the classes in the validation set. Shape [C].
    """
    f = features[examples.rows]
    scale = np.minimum(2 * np.maximum(estimate, prior), _MOST_DEVIATION)

    def difference(shares: np.ndarray) -> np.ndarray:
        return pool_means - (weights * shares[:, examples.labels]) @ f

    shares = np.tile(estimate, (len(weights), 1))
    noise = difference(shares).std(axis=0) + _LEAST_NOISE
    sizes = np.bincount(examples.labels, examples.sizes)
    means = np.zeros((len(prior), f.shape[1]))
    np.add.at(means, examples.labels, examples.sizes[:, None] * f)
    scaled = means / sizes[:, None] / noise
    covariance = np.linalg.inv(scaled @ scaled.T + np.diag(scale**-2))
    gain = (scaled / noise).T @ covariance
    start = estimate + scale * generator.normal(size=shares.shape)
    for _ in range(_NUM_STEPS):
        pull = (start - shares) / scale**2
        shares = shares + difference(shares) @ gain + pull @ covariance
    return Draws(shares, np.sqrt(np.diag(covariance)) < scale / 4)
