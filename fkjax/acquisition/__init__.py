"""Acquisition functions: which pool examples to label next.

Everything that a strategy of your own needs is here, too.
"""

from fkjax.acquisition.adversarial import vaal
from fkjax.acquisition.complement import (
    bait,
    fisher_herding,
    fisher_ratio,
    logdet_mi,
    max_det,
    vtl,
)
from fkjax.acquisition.factories import Factory, Settings, make_strategy
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
from fkjax.acquisition.matching import match_rows
from fkjax.acquisition.random import random, with_random_share
from fkjax.acquisition.ranking import highest
from fkjax.acquisition.uncertainty import (
    bald,
    entropy,
    least_confidence,
    margin,
    mean_std,
    variation_ratio,
)
from fkjax.base import Model, Query, Strategy, Variables, View, key_for, log_probs
from fkjax.parallel.mapping import map_examples

STRATEGIES: dict[str, Factory] = {
    "random": random,
    "feature_match": feature_match,
    "fisher_argmax": fisher_argmax,
    "fisher_nearest": fisher_nearest,
    "fisher_nearest_joint": fisher_nearest_joint,
    "fisher_covariance": fisher_covariance,
    "fisher_information": fisher_information,
    "fisher_information_diagonal": fisher_information_diagonal,
    "fisher_oracle": fisher_oracle,
    "fisher_ratio": fisher_ratio,
    "bait": bait,
    "logdet_mi": logdet_mi,
    "vtl": vtl,
    "max_det": max_det,
    "fisher_herding": fisher_herding,
    "variation_ratio": variation_ratio,
    "entropy": entropy,
    "bald": bald,
    "mean_std": mean_std,
    "margin": margin,
    "least_confidence": least_confidence,
    "vaal": vaal,
}
"""The factories by the names that `--strategies` takes; one entry adds one."""

__all__ = [
    "STRATEGIES",
    "Factory",
    "Model",
    "Query",
    "Settings",
    "Strategy",
    "Variables",
    "View",
    "bait",
    "bald",
    "entropy",
    "feature_match",
    "fisher_argmax",
    "fisher_covariance",
    "fisher_herding",
    "fisher_information",
    "fisher_information_diagonal",
    "fisher_nearest",
    "fisher_nearest_joint",
    "fisher_oracle",
    "fisher_ratio",
    "highest",
    "key_for",
    "least_confidence",
    "log_probs",
    "logdet_mi",
    "make_strategy",
    "map_examples",
    "margin",
    "match_rows",
    "max_det",
    "mean_std",
    "random",
    "vaal",
    "variation_ratio",
    "vtl",
    "with_random_share",
]
