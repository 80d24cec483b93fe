"""Acquisition functions: which pool examples to have labelled next."""

from collections.abc import Callable, Sequence

from fkjax.acquisition.fisher_kernel import (
    feature_match,
    fisher_argmax,
    fisher_nearest,
    fisher_oracle,
)
from fkjax.acquisition.random import random
from fkjax.acquisition.uncertainty import (
    bald,
    entropy,
    least_confidence,
    margin,
    mean_std,
    variation_ratio,
)
from fkjax.base import Model, Strategy


def _random(model: Model, *, taps: Sequence[str], budget: int) -> Strategy:
    del model, taps
    return random(budget=budget)


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": _random,
    "feature_match": feature_match,
    "fisher_argmax": fisher_argmax,
    "fisher_nearest": fisher_nearest,
    "fisher_oracle": fisher_oracle,
    "variation_ratio": variation_ratio,
    "entropy": entropy,
    "bald": bald,
    "mean_std": mean_std,
    "margin": margin,
    "least_confidence": least_confidence,
}
"""Makes a strategy by its name: `STRATEGIES[name](model, taps=..., budget=...)`."""

__all__ = [
    "STRATEGIES",
    "bald",
    "entropy",
    "feature_match",
    "fisher_argmax",
    "fisher_nearest",
    "fisher_oracle",
    "least_confidence",
    "margin",
    "mean_std",
    "random",
    "variation_ratio",
]
