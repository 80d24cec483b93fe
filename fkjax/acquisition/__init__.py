"""Acquisition functions: which pool examples to label next.

Everything that a strategy of your own needs is here, too.
"""

from fkjax.acquisition.adversarial import vaal
from fkjax.acquisition.badge import badge
from fkjax.acquisition.balance import balance_oracle
from fkjax.acquisition.class_need import class_need, class_need_margin, class_need_ratio
from fkjax.acquisition.complement import (
    bait,
    fisher_herding,
    fisher_ratio,
    logdet_mi,
    max_det,
    vtl,
)
from fkjax.acquisition.coverage import core_set, lcmd
from fkjax.acquisition.epig import epig
from fkjax.acquisition.facility import flqmi, max_herding
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
    "class_need_margin": class_need_margin,
    "class_need_ratio": class_need_ratio,
    "core_set": core_set,
    "lcmd": lcmd,
    "flqmi": flqmi,
    "max_herding": max_herding,
    "badge": badge,
    "variation_ratio": variation_ratio,
    "entropy": entropy,
    "bald": bald,
    "mean_std": mean_std,
    "epig": epig,
    "margin": margin,
    "least_confidence": least_confidence,
    "vaal": vaal,
    "balance_oracle": balance_oracle,
}
"""The factories by the names that `--strategies` takes; one entry adds one."""

ORACLES = frozenset({"fisher_oracle", "balance_oracle"})
"""The names of the references that read hidden labels."""

__all__ = [
    "ORACLES",
    "STRATEGIES",
    "Factory",
    "Model",
    "Query",
    "Settings",
    "Strategy",
    "Variables",
    "View",
    "badge",
    "bait",
    "balance_oracle",
    "bald",
    "class_need",
    "class_need_margin",
    "class_need_ratio",
    "core_set",
    "entropy",
    "epig",
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
    "flqmi",
    "highest",
    "key_for",
    "lcmd",
    "least_confidence",
    "log_probs",
    "logdet_mi",
    "make_strategy",
    "map_examples",
    "margin",
    "match_rows",
    "max_det",
    "max_herding",
    "mean_std",
    "random",
    "vaal",
    "variation_ratio",
    "vtl",
    "with_random_share",
]
