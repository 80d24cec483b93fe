"""Held-out predictions for the validation set, and the prior correction they choose."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import PriorCorrection
from fkjax.label_shift.correction import (
    corrected,
    fit_correction,
    no_correction,
    smoothed_shares,
)


class HeldOut(NamedTuple):
    """Predictions for the validation set by models that were not trained on it.

    Attributes:
        log_probs: log-probabilities, each by a model that was trained without the
            example. Shape [M, C].
        correction: prior correction of the run's model, chosen by these predictions.
    """

    log_probs: jax.Array
    correction: PriorCorrection

    @property
    def predictions(self) -> jax.Array:
        """The most probable classes after the correction. Shape [M]."""
        return corrected(self.correction, self.log_probs).argmax(axis=-1)


class CorrectionRule(NamedTuple):
    """The rule by which a prior correction is chosen.

    Attributes:
        kind: auto, strength and temperature by the log-loss of held-out predictions;
            counts, strength and temperature 1; none, no correction.
        shares: class shares in deployment; None for those of the validation set. Shape
            [C].
    """

    kind: Literal["auto", "counts", "none"] = "none"
    shares: jax.Array | None = None


NO_RULE = CorrectionRule("none")
"""The rule of no correction."""


def hold_out(
    rule: CorrectionRule,
    log_probs: jax.Array,
    labels: jax.Array,
    training_labels: jax.Array,
) -> HeldOut:
    """Chooses the correction of a model. Nothing is corrected before it has a label.

    Args:
        rule: rule by which the correction is chosen.
        log_probs: held-out log-probabilities of the validation set. Shape [M, C].
        labels: true classes of the validation set. Shape [M].
        training_labels: labels on which the model was trained; those below 0 are left
            out. Shape [N].
    """
    num_classes = log_probs.shape[1]
    nothing = PriorCorrection(*map(jnp.asarray, no_correction(num_classes)))
    if rule.kind == "none":
        return HeldOut(log_probs, nothing)
    shares = rule.shares
    if shares is None:
        shares = smoothed_shares(labels, num_classes)
    log_ratio = jnp.log(shares) - jnp.log(smoothed_shares(training_labels, num_classes))
    if rule.kind == "auto":
        chosen = fit_correction(log_probs, labels, log_ratio)
    else:
        chosen = PriorCorrection(jnp.ones(()), jnp.ones(()), log_ratio)
    is_trained = (training_labels >= 0).any()
    return HeldOut(
        log_probs,
        jax.tree.map(lambda x, y: jnp.where(is_trained, x, y), chosen, nothing),
    )
