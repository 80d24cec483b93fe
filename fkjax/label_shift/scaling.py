"""Bias-corrected temperature scaling of probabilities."""

from typing import Any, NamedTuple

import numpy as np

from fkjax.label_shift.checks import (
    TINY,
    checked_labels,
    checked_names,
    checked_probabilities,
)


class Calibration(NamedTuple):
    """Bias-corrected temperature scaling: p'(y | x) ~ p(y | x)^slope exp(offset_y).

    Attributes:
        slope: inverse temperature.
        offset: bias of each class. Shape [C].
    """

    slope: float
    offset: np.ndarray


def calibration(probs: Any, labels: Any) -> Calibration:
    """Fits bias-corrected temperature scaling to labeled examples.

    Alexandari, Kundaje and Shrikumar 2020 ("BCTS"). Gaussian priors of variance 1, with
    mean 1 for the slope and 0 for the biases, keep them finite if the classifier is
    right on all examples.

    Args:
        probs: classifier's probabilities. Shape [M, C].
        labels: true classes. Shape [M].

    Returns:
        The slope and the biases.

    Raises:
        UserError: if the values are not probabilities, the shapes do not match, or a
            class has no example.
    """
    probs = checked_probabilities(probs, "validation set")
    labels = checked_labels(labels, len(probs), checked_names(range(probs.shape[1])))
    return fit_calibration(log_probabilities(probs), labels)


def calibrated(calibration: Calibration, probs: Any) -> np.ndarray:
    """Returns calibrated probabilities. Shape [N, C]."""
    return softmax(calibration, log_probabilities(np.asarray(probs, float)))


def log_probabilities(probs: np.ndarray) -> np.ndarray:
    """Returns logarithms of probabilities, finite at zero."""
    return np.log(np.maximum(probs, TINY))


def softmax(calibration: Calibration, z: np.ndarray) -> np.ndarray:
    """Returns calibrated probabilities from z = log p. Shape [N, C]."""
    logits = calibration.slope * z + calibration.offset
    logits -= logits.max(axis=1, keepdims=True)
    probs = np.exp(logits, out=logits)
    probs /= probs.sum(axis=1, keepdims=True)
    return probs


def fit_calibration(z: np.ndarray, labels: np.ndarray) -> Calibration:
    """Minimizes the penalized cross entropy, which is convex, by Newton's method."""
    rows, num_classes = np.arange(len(z)), z.shape[1]
    at_one = np.eye(num_classes + 1)[0]

    def unpack(theta: np.ndarray) -> Calibration:
        return Calibration(float(theta[0]), theta[1:])

    def loss(theta: np.ndarray) -> float:
        true = softmax(unpack(theta), z)[rows, labels]
        away = theta - at_one
        return float(-log_probabilities(true).sum() + away @ away / 2)

    theta = at_one
    value = loss(theta)
    for _ in range(50):
        probs = softmax(unpack(theta), z)
        mean = (probs * z).sum(axis=1)
        gradient = theta - at_one
        gradient[0] += (mean - z[rows, labels]).sum()
        gradient[1:] += probs.sum(axis=0)
        gradient[1:] -= np.bincount(labels, minlength=num_classes)
        hessian = np.eye(num_classes + 1)
        hessian[0, 0] += (probs * (z - mean[:, None]) ** 2).sum()
        mixed = (probs * (z - mean[:, None])).sum(axis=0)
        hessian[0, 1:] += mixed
        hessian[1:, 0] += mixed
        hessian[1:, 1:] += np.diag(probs.sum(axis=0)) - probs.T @ probs
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
