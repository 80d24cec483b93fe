"""Strategies that complement the labels at hand, on unit-norm Fisher features.

The features phi of an example are its embedding by the kernel of z and g, scaled to
length 1. The gradient g is taken for the true label of a validation example and of a
queried one, and for the most probable class of another pool example. That class and
the weights of `fisher_ratio` come from the corrected prediction and from the class
shares of the pool, which are estimated by EM (`fkjax.acquisition.posterior`).

Each factory takes these arguments:

- `model`: the classifier.
- `taps`: names of the taps whose activations enter the descriptors.
- `budget`: number of examples to query, B.
- `batch_size`: number of images processed at a time. It affects the speed, not the
  result.
- `kernel`: kernel of z and g, whose value is the inner product of its embeddings.
- `trains_on_validation`: whether the model has been trained on the validation set.
- `noise`: variance of the noise of an observed label, s2 (not for `fisher_herding`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition import conditioned, pseudo_label
from fkjax.acquisition.greedy import Gain, pick
from fkjax.acquisition.posterior import pool_posterior
from fkjax.base import Examples, Model, Query, Strategy, View, key_for, log_probs
from fkjax.fisher.descriptors import descriptor
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.label_shift.correction import corrected, smoothed_shares
from fkjax.parallel.mapping import map_examples, map_rows
from fkjax.parallel.rows import Rows, rows_of

_SEES = frozenset({"validation", "validation_labels", "labels", "correction"})


class _Scene(NamedTuple):
    """The data from which a gain is made.

    Attributes:
        pool: features of the pool. Shape [N, K].
        validation: features of the validation set. Shape [M, K].
        is_labeled: whether each pool example has a label. Shape [N] bool.
        weights: weight of each pool example in deployment, w_i. Shape [N].
    """

    pool: Rows
    validation: jax.Array
    is_labeled: jax.Array
    weights: jax.Array

    def of_bought(self) -> jax.Array:
        """Returns the Gram matrix of the queried examples. Shape [K, K]."""
        return conditioned.gram(self.pool, self.is_labeled)

    def of_validation(self) -> jax.Array:
        """Returns the Gram matrix of the validation set. Shape [K, K]."""
        return conditioned.gram(
            rows_of(self.validation), jnp.ones(len(self.validation))
        )


def fisher_ratio(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
    trains_on_validation: bool = False,
    noise: float = 0.1,
) -> Strategy:
    """Returns the strategy of the Fisher information ratio under label shift.

    It lowers tr(M Sigma) greedily. M is the covariance given all labels, and Sigma the
    second moment of the pool, reweighted to the class shares of the validation set: an
    example has the weight w_i = sum_c r_ic pi_c / q_c. See the documentation of the
    module for the arguments.

    Source: Zhang and Oles 2000; Sourati et al. 2017; Ash et al. 2021 (BAIT); Saerens,
    Latinne and Decaestecker 2002.
    """

    def gain(scene: _Scene) -> Gain:
        known = scene.of_bought()
        if trains_on_validation:
            known += scene.of_validation()
        weights = scene.weights
        target = conditioned.gram(scene.pool, weights) / weights.sum()
        m = conditioned.covariance(known, noise=noise)
        return conditioned.fisher_ratio(scene.pool, m, target, noise=noise)

    return _strategy(model, gain, taps, budget, batch_size, kernel)


def bait(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
    trains_on_validation: bool = False,
    noise: float = 0.1,
) -> Strategy:
    """Returns `fisher_ratio` with the pool as it is: all weights are 1.

    Source: Ash et al. 2021 (BAIT), for the Fisher vector of one label.
    """

    def gain(scene: _Scene) -> Gain:
        known = scene.of_bought()
        if trains_on_validation:
            known += scene.of_validation()
        once = jnp.ones(scene.pool.num)
        target = conditioned.gram(scene.pool, once) / scene.pool.num
        m = conditioned.covariance(known, noise=noise)
        return conditioned.fisher_ratio(scene.pool, m, target, noise=noise)

    return _strategy(model, gain, taps, budget, batch_size, kernel)


def vtl(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
    noise: float = 0.1,
) -> Strategy:
    """Returns the strategy that lowers the sum of the variances of the validation set.

    The variances are given the queried examples. See the documentation of the module
    for the arguments.

    Source: Huebotter et al. 2024 (VTL).
    """

    def gain(scene: _Scene) -> Gain:
        m = conditioned.covariance(scene.of_bought(), noise=noise)
        target = scene.of_validation() / len(scene.validation)
        return conditioned.fisher_ratio(scene.pool, m, target, noise=noise)

    return _strategy(model, gain, taps, budget, batch_size, kernel)


def logdet_mi(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
    noise: float = 0.1,
) -> Strategy:
    """Returns the strategy of the mutual information with the validation set.

    It is that of the queried examples and the validation examples. See the
    documentation of the module for the arguments.

    Source: Kothawade et al. 2021 (SIMILAR); Huebotter et al. 2024 (ITL).
    """

    def gain(scene: _Scene) -> Gain:
        known = scene.of_bought()
        m = conditioned.covariance(known, noise=noise)
        given = conditioned.covariance(known + scene.of_validation(), noise=noise)
        return conditioned.mutual_information(scene.pool, m, given, noise=noise)

    return _strategy(model, gain, taps, budget, batch_size, kernel)


def max_det(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
    trains_on_validation: bool = False,
    noise: float = 0.1,
) -> Strategy:
    """Returns the strategy of the largest variance given all labels.

    See the documentation of the module for the arguments.

    Source: Holzmueller et al. 2023 (MaxDet).
    """

    def gain(scene: _Scene) -> Gain:
        known = scene.of_bought()
        if trains_on_validation:
            known += scene.of_validation()
        m = conditioned.covariance(known, noise=noise)
        return conditioned.variance(scene.pool, m, noise=noise)

    return _strategy(model, gain, taps, budget, batch_size, kernel)


def fisher_herding(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
) -> Strategy:
    """Returns the strategy of kernel herding to the mean of the validation set.

    The mean of the queried examples approaches it. See the documentation of the module
    for the arguments.

    Source: Chen, Welling and Smola 2010.
    """

    def gain(scene: _Scene) -> Gain:
        return conditioned.herding(
            scene.pool,
            scene.validation.mean(axis=0),
            conditioned.total(scene.pool, scene.is_labeled),
            scene.is_labeled.sum(),
        )

    return _strategy(model, gain, taps, budget, batch_size, kernel)


def _strategy(
    model: Model,
    gain: Callable[[_Scene], Gain],
    taps: Sequence[str],
    budget: int,
    batch_size: int,
    kernel: Kernel,
) -> Strategy:
    def query(key: jax.Array, view: View) -> Query:
        def predict(image: jax.Array) -> jax.Array:
            return corrected(view.correction, log_probs(model, view.variables, image))

        def embed(image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
            label_fn = pseudo_label.given(label)
            d = descriptor(model, view.variables, image, label_fn, taps=taps)
            phi = kernel.embed(d.z, d.g)
            return phi / (jnp.linalg.norm(phi) + 1e-10), ~jnp.isfinite(phi).all()

        def all_of(images: Examples, labels: jax.Array) -> Rows:
            return map_rows(embed, images, labels, batch_size=batch_size).kept()

        deployment = smoothed_shares(view.validation_labels, model.num_classes)
        shares, posterior = pool_posterior(
            map_examples(predict, view.pool, batch_size=batch_size),
            view.labels,
            deployment,
        )
        assumed = posterior.argmax(axis=1).astype(jnp.int32)
        rows = all_of(view.pool, assumed)
        validation, is_bad_validation = map_examples(
            embed, view.validation, view.validation_labels, batch_size=batch_size
        )
        is_bad = rows.gathered(rows.read(0, rows.size)[1])
        pool = rows.map(lambda row: row[0])
        scene = _Scene(
            pool, validation, view.labels >= 0, posterior @ (deployment / shares)
        )
        indices, gains = pick(
            key_for(key, "picks"), pool, view.is_unlabeled, gain(scene), budget=budget
        )
        nothing = jnp.full(budget, -1, jnp.int32)
        return Query(
            indices, assumed[indices], nothing, gains, is_bad, is_bad_validation
        )

    return Strategy(_SEES, query)
