"""Strategies that complement the labels at hand, on a conditioned Gaussian process.

They pick greedily on unit-norm Fisher features phi (`fkjax.acquisition.scene`), by the
gains of `fkjax.acquisition.conditioned`.

Each factory takes these arguments:

- `model`: the classifier.
- `taps`: names of the taps whose activations enter the descriptors.
- `budget`: number of examples to query, B.
- `batch_size`: number of images processed at a time. It affects the speed, not the
  result.
- `kernel`: kernel of z and g, from which phi is made.
- `trains_on_validation`: whether the model has been trained on the validation set,
  which then counts as labeled in `fisher_ratio`, `bait` and `max_det`. It is the set of
  targets of the others.
- `noise`: variance of the noise of an observed label, s2 (not used by
  `fisher_herding`).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fkjax.acquisition import conditioned
from fkjax.acquisition.greedy import Gain
from fkjax.acquisition.scene import Scene, greedy_strategy
from fkjax.base import Model, Strategy
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.parallel.rows import rows_of


def _by(gain: Callable[[Scene, float], Gain]) -> Callable[..., Strategy]:
    """Returns the factory of strategies that pick by `gain(scene, noise)`."""

    def factory(
        model: Model,
        *,
        taps: Sequence[str],
        budget: int,
        batch_size: int = 100,
        kernel: Kernel = multi_scale,
        trains_on_validation: bool = False,
        noise: float = 0.1,
    ) -> Strategy:
        return greedy_strategy(
            model,
            lambda scene: gain(scene, noise),
            taps=taps,
            budget=budget,
            batch_size=batch_size,
            kernel=kernel,
            trains_on_validation=trains_on_validation,
        )

    return factory


def _of_bought(scene: Scene) -> jax.Array:
    """Returns the Gram matrix of the queried examples. Shape [K, K]."""
    return conditioned.gram(scene.pool, scene.is_labeled)


def _of_validation(scene: Scene) -> jax.Array:
    """Returns the Gram matrix of the validation set. Shape [K, K]."""
    once = jnp.ones(len(scene.validation))
    return conditioned.gram(rows_of(scene.validation), once)


def _of_labeled(scene: Scene) -> jax.Array:
    """Returns the Gram matrix of all examples that have been trained on."""
    bought = _of_bought(scene)
    return bought + _of_validation(scene) if scene.trains_on_validation else bought


def _ratio(scene: Scene, noise: float, weights: jax.Array) -> Gain:
    target = conditioned.gram(scene.pool, weights) / weights.sum()
    m = conditioned.covariance(_of_labeled(scene), noise=noise)
    return conditioned.fisher_ratio(scene.pool, m, target, noise=noise)


def ratio_gain(scene: Scene, noise: float) -> Gain:
    """Returns the gain of `fisher_ratio`."""
    bias = scene.deployment / scene.shares
    weights = jnp.matmul(scene.posterior, bias, precision=jax.lax.Precision.HIGHEST)
    return _ratio(scene, noise, weights)


def _bait(scene: Scene, noise: float) -> Gain:
    return _ratio(scene, noise, jnp.ones(scene.pool.num))


def _vtl(scene: Scene, noise: float) -> Gain:
    m = conditioned.covariance(_of_bought(scene), noise=noise)
    target = _of_validation(scene) / len(scene.validation)
    return conditioned.fisher_ratio(scene.pool, m, target, noise=noise)


def _logdet_mi(scene: Scene, noise: float) -> Gain:
    bought = _of_bought(scene)
    m = conditioned.covariance(bought, noise=noise)
    given = conditioned.covariance(bought + _of_validation(scene), noise=noise)
    return conditioned.mutual_information(scene.pool, m, given, noise=noise)


def _max_det(scene: Scene, noise: float) -> Gain:
    m = conditioned.covariance(_of_labeled(scene), noise=noise)
    return conditioned.variance(scene.pool, m, noise=noise)


def _herding(scene: Scene, noise: float) -> Gain:
    del noise
    return conditioned.herding(
        scene.pool,
        scene.validation.mean(axis=0),
        conditioned.total(scene.pool, scene.is_labeled),
        scene.is_labeled.sum(),
    )


fisher_ratio = _by(ratio_gain)
"""Lowers the Fisher information ratio tr(M Sigma) under label shift.

M is the covariance given all labels, and Sigma the second moment of the pool, in which
an example has the weight w_i = sum_c r_ic pi_c / q_c: the pool, reweighted to the class
shares of the validation set. Source: Zhang and Oles 2000; Sourati et al. 2017; Ash et
al. 2021 (BAIT); Saerens, Latinne and Decaestecker 2002.
"""

bait = _by(_bait)
"""Lowers tr(M Sigma) like `fisher_ratio`, with the weight 1 for each pool example.

Source: Ash et al. 2021 (BAIT), for the Fisher vector of one label.
"""

vtl = _by(_vtl)
"""Lowers the sum of the variances of the validation set, given the queried examples.

Source: Huebotter et al. 2024 (VTL).
"""

logdet_mi = _by(_logdet_mi)
"""Raises the mutual information of the queried and the validation examples.

Source: Kothawade et al. 2021 (SIMILAR); Huebotter et al. 2024 (ITL).
"""

max_det = _by(_max_det)
"""Queries the largest variance given all labels.

Source: Holzmueller et al. 2023 (MaxDet).
"""

fisher_herding = _by(_herding)
"""Brings the mean of the queried examples near that of the validation set.

Source: Chen, Welling and Smola 2010 (kernel herding).
"""
