"""Acquisition functions: which pool examples to have labelled next."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fkjax.acquisition.adversarial import vaal
from fkjax.acquisition.fisher_kernel import (
    feature_match,
    fisher_argmax,
    fisher_covariance,
    fisher_information,
    fisher_information_diagonal,
    fisher_nearest,
    fisher_nearest_joint,
    fisher_oracle,
)
from fkjax.acquisition.random import random, with_random_share
from fkjax.acquisition.uncertainty import (
    bald,
    entropy,
    least_confidence,
    margin,
    mean_std,
    variation_ratio,
)
from fkjax.base import Model, Strategy
from fkjax.fisher.kernel import Kernel, multi_scale


class Settings(NamedTuple):
    """What a run tells its strategies; each takes what it needs.

    Attributes:
        taps: activations in the descriptors of those that match.
        budget: B.
        num_passes: T of those under MC-dropout, of each member of an ensemble.
        vaal_steps: training steps of `vaal` in a query.
        num_copies: K of those that look at perturbed copies.
        kernel: of z and g, by which the Fisher strategies match.
        batch_size: images that those which match, and those of one pass, take at a
            time; it changes the speed, not the result.
        is_trained: whether the model has learned from labels before any of the pool
            has one. If not, those that look for uncertainty begin by lot.
    """

    taps: Sequence[str]
    budget: int
    num_passes: int = 128
    vaal_steps: int = 1000
    num_copies: int = 128
    kernel: Kernel = multi_scale
    batch_size: int = 100
    is_trained: bool = False


def _random(model: Model, settings: Settings) -> Strategy:
    del model
    return random(budget=settings.budget)


def _feature_match(model: Model, settings: Settings) -> Strategy:
    return feature_match(
        model,
        taps=settings.taps,
        budget=settings.budget,
        batch_size=settings.batch_size,
    )


def _matching(factory: Callable[..., Strategy]) -> Callable[..., Strategy]:
    return lambda model, settings: factory(
        model,
        taps=settings.taps,
        budget=settings.budget,
        batch_size=settings.batch_size,
        kernel=settings.kernel,
    )


def _by_copies(factory: Callable[..., Strategy]) -> Callable[..., Strategy]:
    return lambda model, settings: factory(
        model,
        taps=settings.taps,
        budget=settings.budget,
        num_copies=settings.num_copies,
    )


def _stochastic(factory: Callable[..., Strategy]) -> Callable[..., Strategy]:
    return lambda model, settings: factory(
        model,
        budget=settings.budget,
        num_passes=settings.num_passes,
        is_trained=settings.is_trained,
    )


def _deterministic(factory: Callable[..., Strategy]) -> Callable[..., Strategy]:
    return lambda model, settings: factory(
        model,
        budget=settings.budget,
        batch_size=settings.batch_size,
        is_trained=settings.is_trained,
    )


def _vaal(model: Model, settings: Settings) -> Strategy:
    return vaal(model, budget=settings.budget, num_steps=settings.vaal_steps)


STRATEGIES: dict[str, Callable[[Model, Settings], Strategy]] = {
    "random": _random,
    "feature_match": _feature_match,
    "fisher_argmax": _matching(fisher_argmax),
    "fisher_nearest": _matching(fisher_nearest),
    "fisher_nearest_joint": _matching(fisher_nearest_joint),
    "fisher_covariance": _by_copies(fisher_covariance),
    "fisher_information": _by_copies(fisher_information),
    "fisher_information_diagonal": _by_copies(fisher_information_diagonal),
    "fisher_oracle": _matching(fisher_oracle),
    "variation_ratio": _stochastic(variation_ratio),
    "entropy": _stochastic(entropy),
    "bald": _stochastic(bald),
    "mean_std": _stochastic(mean_std),
    "margin": _deterministic(margin),
    "least_confidence": _deterministic(least_confidence),
    "vaal": _vaal,
}
"""Makes a strategy by its name: `STRATEGIES[name](model, settings)`."""

__all__ = [
    "STRATEGIES",
    "Settings",
    "bald",
    "entropy",
    "feature_match",
    "fisher_argmax",
    "fisher_covariance",
    "fisher_information",
    "fisher_information_diagonal",
    "fisher_nearest",
    "fisher_nearest_joint",
    "fisher_oracle",
    "least_confidence",
    "margin",
    "mean_std",
    "random",
    "vaal",
    "variation_ratio",
    "with_random_share",
]
