"""Prior correction: predictions of a model that was trained on other class shares.

A model that was trained on the class shares p_L predicts log p(y | x). Where it is
deployed, the classes have the shares pi. The corrected prediction is

    log p'(y | x) = (log p(y | x) + tau (log pi_y - log p_L,y)) / T + const.

With the strength tau = 1 and the temperature T = 1, it is exact under label shift and
for calibrated probabilities (Saerens, Latinne and Decaestecker 2002). A network that
fits its training labels is not calibrated, and labels that were chosen are no random
sample of their class; tau and T are therefore chosen on labeled examples that look
like deployment (tau: Menon et al. 2021; T: Guo et al. 2017).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import PriorCorrection, UserError
from fkjax.label_shift.checks import checked_numbers

STRENGTHS = np.linspace(0, 3, 25)
"""Strengths tau that `choose_correction` compares."""
TEMPERATURES = np.geomspace(1 / 3, 3, 17)
"""Temperatures T that `choose_correction` compares."""


def no_correction(num_classes: int) -> PriorCorrection:
    """Returns the correction that leaves log-probabilities unchanged."""
    return PriorCorrection(0.0, 1.0, np.zeros(num_classes))


def smoothed_shares(labels: Any, num_classes: int) -> jax.Array:
    """Returns the class shares of some labels, with one more example of each class.

    >>> print(smoothed_shares(jnp.array([0, 0, -1]), 2))
    [0.75 0.25]

    Args:
        labels: the labels; those below 0 are left out. Shape [N].
        num_classes: number of classes, C.

    Returns:
        The shares, all of them positive. Shape [C].
    """
    labels = jnp.asarray(labels)
    counts = jnp.zeros(num_classes).at[labels].add(labels >= 0, mode="drop") + 1
    return counts / counts.sum()


def corrected(correction: PriorCorrection, log_probs: Any) -> jax.Array:
    """Returns corrected log-probabilities.

    >>> rarer = PriorCorrection(1.0, 1.0, jnp.log(jnp.array([1.5, 0.5])))
    >>> print(jnp.exp(corrected(rarer, jnp.log(jnp.array([0.5, 0.5])))))
    [0.75 0.25]

    Args:
        correction: the correction.
        log_probs: log-probabilities, or logits, of the model. Shape [..., C].

    Returns:
        The log-probabilities. Shape [..., C].
    """
    log_probs = jax.nn.log_softmax(jnp.asarray(log_probs))
    offset = jnp.broadcast_to(
        correction.strength * jnp.asarray(correction.log_ratio), log_probs.shape
    )
    return jax.nn.log_softmax((log_probs + offset) / correction.temperature)


def choose_correction(
    log_probs: Any,
    labels: Any,
    training_shares: Any,
    deployment_shares: Any,
    *,
    spread: float = 0.5,
) -> PriorCorrection:
    """Chooses tau and T by the log-loss on examples that look like deployment.

    The examples must not have been in the training set of the model that predicted
    them, such as those of a validation set, each predicted by a model that was trained
    without it (out of fold). The smallest penalized loss is chosen,

        - sum_m log p'(y_m | x_m) + ((tau - 1) / spread)^2 / 2 + (log T / spread)^2 / 2,

    so that few examples choose little: the penalty is the logarithm of Gaussian priors
    around tau = 1 and T = 1.

    Args:
        log_probs: log-probabilities, or logits, of the model. Shape [M, C].
        labels: true classes. Shape [M].
        training_shares: class shares in the training set, p_L; all positive, such as
            those of `smoothed_shares`. Shape [C].
        deployment_shares: class shares in deployment, pi; all positive. Shape [C].
        spread: standard deviation of the priors.

    Returns:
        The correction. With M = 0, its strength and temperature are 1.

    Raises:
        UserError: if the shapes do not agree, a share is not positive, or a label is no
            class.
    """
    log_probs = np.asarray(log_probs, np.float64)
    ratio = np.log(_checked(deployment_shares, log_probs, "deployment"))
    ratio = ratio - np.log(_checked(training_shares, log_probs, "training"))
    names = [str(i) for i in range(log_probs.shape[-1])]
    if len(log_probs) != len(labels):
        raise UserError(
            f"the log-probabilities of {len(log_probs)} examples need one label for "
            f"each, got {len(labels)} labels"
        )
    labels = checked_numbers(labels, names, "labels") if len(labels) else []
    return fit_correction(
        jnp.asarray(log_probs),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(ratio),
        spread=spread,
    )


def fit_correction(
    log_probs: jax.Array,
    labels: jax.Array,
    log_ratio: jax.Array,
    *,
    spread: float = 0.5,
) -> PriorCorrection:
    """Runs `choose_correction` under `jit`, without checks.

    Args:
        log_probs: see `choose_correction`. Shape [M, C].
        labels: true classes; examples with a label below 0 are left out. Shape [M].
        log_ratio: log pi - log p_L. Shape [C].
        spread: see `choose_correction`.

    Returns:
        The correction, whose numbers are arrays.
    """
    strengths, temperatures = jnp.asarray(STRENGTHS), jnp.asarray(TEMPERATURES)
    log_probs = jax.nn.log_softmax(log_probs)

    def loss(strength: jax.Array, temperature: jax.Array) -> jax.Array:
        tried = PriorCorrection(strength, temperature, log_ratio)
        of_labels = jnp.take_along_axis(
            corrected(tried, log_probs), jnp.maximum(labels, 0)[:, None], axis=1
        )[:, 0]
        away = ((strength - 1) / spread) ** 2 + (jnp.log(temperature) / spread) ** 2
        return away / 2 - jnp.where(labels >= 0, of_labels, 0).sum()

    tried = jnp.stack(
        [x.ravel() for x in jnp.meshgrid(strengths, temperatures, indexing="ij")]
    )
    losses = jax.lax.map(lambda x: loss(x[0], x[1]), tried.T)
    best = jnp.where(jnp.isnan(losses), jnp.inf, losses).argmin()
    return PriorCorrection(tried[0, best], tried[1, best], log_ratio)


def _checked(shares: Any, log_probs: np.ndarray, what: str) -> np.ndarray:
    shares = np.asarray(shares, np.float64)
    if log_probs.ndim != 2 or shares.shape != log_probs.shape[1:]:
        raise UserError(
            f"the {what} shares must have one number for each column of the "
            f"log-probabilities [M, C], got shapes {shares.shape} and {log_probs.shape}"
        )
    if not (shares > 0).all():
        raise UserError(
            f"the {what} shares must be positive, got {shares.min():g} for class "
            f"{shares.argmin()}: count one more example of each class, as "
            "smoothed_shares does"
        )
    return shares / shares.sum()
