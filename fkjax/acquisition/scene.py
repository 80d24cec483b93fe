"""Strategies that pick greedily on unit-norm Fisher features.

The features phi of an example are those of `fkjax.acquisition.features`. The gradient g
is taken for the true label of a validation example and of a queried one, and for the
most probable class of another pool example. That class comes from the prediction of the
model, corrected if the view has a correction, and from the class shares of the pool,
which are estimated by EM (`fkjax.acquisition.posterior`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition import pseudo_label
from fkjax.acquisition.features import unit_features
from fkjax.acquisition.greedy import Gain, pick
from fkjax.acquisition.posterior import pool_posterior
from fkjax.base import Examples, Model, Query, Strategy, View, key_for, log_probs
from fkjax.fisher.descriptors import descriptor
from fkjax.fisher.kernel import Kernel
from fkjax.label_shift.correction import corrected, smoothed_shares
from fkjax.parallel.mapping import map_examples, map_rows
from fkjax.parallel.rows import Rows

_SEES = frozenset({"validation", "validation_labels", "labels", "correction"})


class Scene(NamedTuple):
    """The data of a round from which a gain is made.

    Attributes:
        key: random key of the round.
        pool: features of the pool, phi, in memory. Shape [N, K].
        validation: features of the validation set. Shape [M, K].
        is_open: whether each pool example can be queried. Shape [N] bool.
        is_labeled: whether each pool example has a label. Shape [N] bool.
        log_probs: log-probabilities of the pool, corrected. Shape [N, C].
        posterior: class probabilities of the pool, r_ic; 0 and 1 for a known label.
            Shape [N, C].
        shares: estimated class shares of the pool, q. Shape [C].
        deployment: class shares of the validation set, pi, smoothed. Shape [C].
        validation_labels: true labels of the validation set. Shape [M].
        budget: number of examples to query, B.
        trains_on_validation: whether the model has been trained on the validation set.
    """

    key: jax.Array
    pool: Rows
    validation: jax.Array
    is_open: jax.Array
    is_labeled: jax.Array
    log_probs: jax.Array
    posterior: jax.Array
    shares: jax.Array
    deployment: jax.Array
    validation_labels: jax.Array
    budget: int
    trains_on_validation: bool


def greedy_strategy(
    model: Model,
    gain: Callable[[Scene], Gain],
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int,
    kernel: Kernel,
    trains_on_validation: bool,
) -> Strategy:
    """Returns the strategy that picks the highest gains, one after the other.

    Args:
        model: the classifier.
        gain: function that makes the gain of a round.
        taps: names of the taps whose activations enter the descriptors.
        budget: number of examples to query, B.
        batch_size: number of images processed at a time.
        kernel: kernel of z and g.
        trains_on_validation: whether the model has been trained on the validation set.
    """

    def query(key: jax.Array, view: View) -> Query:
        def predict(image: jax.Array) -> jax.Array:
            log_p = log_probs(model, view.variables, image)
            if view.correction is None:
                return log_p
            return corrected(view.correction, log_p)

        def embed(image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
            label_fn = pseudo_label.given(label)
            d = descriptor(model, view.variables, image, label_fn, taps=taps)
            phi = unit_features(key_for(key, "sketch"), kernel, d.z, d.g)
            is_bad = ~jnp.isfinite(phi).all()
            return jnp.where(is_bad, 0, phi), is_bad  # so that sums remain finite

        def embed_all(images: Examples, labels: jax.Array) -> Rows:
            return map_rows(embed, images, labels, batch_size=batch_size).kept()

        log_p = map_examples(predict, view.pool, batch_size=batch_size)
        deployment = smoothed_shares(view.validation_labels, model.num_classes)
        shares, posterior = pool_posterior(log_p, view.labels, deployment)
        assumed = posterior.argmax(axis=1).astype(jnp.int32)
        rows = embed_all(view.pool, assumed)
        validation, is_bad_validation = map_examples(
            embed, view.validation, view.validation_labels, batch_size=batch_size
        )
        scene = Scene(
            key=key,
            pool=rows.map(lambda row: row[0]),
            validation=validation,
            is_open=view.is_unlabeled,
            is_labeled=~view.is_unlabeled if view.labels is None else view.labels >= 0,
            log_probs=log_p,
            posterior=posterior,
            shares=shares,
            deployment=deployment,
            validation_labels=view.validation_labels,
            budget=budget,
            trains_on_validation=trains_on_validation,
        )
        indices, gains = pick(
            key_for(key, "picks"),
            scene.pool,
            scene.is_open,
            gain(scene),
            budget=budget,
        )
        is_bad = rows.gathered(rows.read(0, rows.size)[1]) & view.is_unlabeled
        nothing = jnp.full(budget, -1, jnp.int32)
        return Query(
            indices, assumed[indices], nothing, gains, is_bad, is_bad_validation
        )

    return Strategy(_SEES, query)
