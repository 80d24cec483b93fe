"""The label assumed for an example whose label nobody has told.

Each function makes a `fkjax.fisher.descriptors.LabelFn`, so that the Fisher vector
under the assumed label costs the backward pass alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fkjax.acquisition.information import diagonal_information, mutual_information
from fkjax.base import Model, Variables
from fkjax.fisher.descriptors import LabelFn, all_gradients, feature_derivatives
from fkjax.fisher.kernel import Kernel, multi_scale, pearson_features, similarity
from fkjax.parallel.mapping import map_apart

Estimator = Callable[..., LabelFn]
"""`estimator(model, variables, copies, *, taps)`: by an example's perturbed copies.

They are images of shape [K, H, W, channels], such as
`fkjax.acquisition.perturbation.copies`; taps are the names of the activations whose z
and g enter."""


def given(label: jax.Array) -> LabelFn:
    """S = y: a label that is known, such as a validation example's."""
    return lambda log_probs, z, gradient: label


def argmax() -> LabelFn:
    """S = y-hat: what the model itself predicts."""
    return lambda log_probs, z, gradient: log_probs.argmax()


def nearest(validation_features: jax.Array, validation_labels: jax.Array) -> LabelFn:
    """S = p-hat(y, z): the true label of the most similar validation example, by R_z.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        validation_features: `pearson_features(z)` of each. Shape [M, L].
        validation_labels: Shape [M].
    """

    def label_fn(log_probs: jax.Array, z: Any, gradient: Any) -> jax.Array:
        del log_probs, gradient
        return validation_labels[
            similarity(pearson_features(z), validation_features).argmax()
        ]

    return label_fn


def nearest_joint(
    validation_features: jax.Array,
    validation_labels: jax.Array,
    kernel: Kernel = multi_scale,
) -> LabelFn:
    """S = p-hat(y, z, g): `nearest` by R_{z,g}, each g under the model's prediction.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        validation_features: `kernel.embed(z, g)` of each, g under the label that the
            model predicts for it. Shape [M, L].
        validation_labels: the true ones. Shape [M].
        kernel: R_{z,g}.
    """

    def label_fn(log_probs: jax.Array, z: Any, gradient: Any) -> jax.Array:
        features = kernel.embed(z, gradient(log_probs.argmax()))
        similarities = kernel.similarity(features, validation_features)
        return validation_labels[similarities.argmax()]

    return label_fn


def covariance(
    model: Model, variables: Variables, copies: jax.Array, *, taps: Sequence[str]
) -> LabelFn:
    """S = argmax_c sum_k <z_k, g_k(c)>: the trace of the covariance of z and g(c).

    The trace's division by K is left out. An `Estimator`.

    Source: Gudovskiy et al. 2020, Sec. 4.3.
    """

    def products(copy: jax.Array) -> jax.Array:
        return feature_derivatives(model, variables, copy, taps=taps)

    return given(jax.vmap(products)(copies).sum(axis=0).argmax())


def information(
    model: Model, variables: Variables, copies: jax.Array, *, taps: Sequence[str]
) -> LabelFn:
    """S = argmax_c I(z; g(c)), by `fkjax.acquisition.information.mutual_information`.

    An `Estimator`.

    Source: Gudovskiy et al. 2020, Sec. 4.3.
    """
    return _most_informed(mutual_information, model, variables, copies, taps)


def information_diagonal(
    model: Model, variables: Variables, copies: jax.Array, *, taps: Sequence[str]
) -> LabelFn:
    """`information` of each channel alone, by `diagonal_information`."""
    return _most_informed(diagonal_information, model, variables, copies, taps)


def _most_informed(
    measure: Callable[[jax.Array, jax.Array], jax.Array],
    model: Model,
    variables: Variables,
    copies: jax.Array,
    taps: Sequence[str],
) -> LabelFn:
    def one(copy: jax.Array) -> tuple[jax.Array, jax.Array]:
        z, g = all_gradients(model, variables, copy, taps=taps)
        z, g = (jnp.concatenate([d[name] for name in taps], -1) for d in (z, g))
        return z, g

    z, g = map_apart(one, copies, batch_size=64)  # [K, L] and [K, C, L]
    return given(jax.vmap(measure, (None, 1))(z, g).argmax())
