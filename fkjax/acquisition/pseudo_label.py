"""Pseudo-labels: the labels S that are assumed for unlabeled examples.

Each function returns a `fkjax.fisher.descriptors.LabelFn`, so that the Fisher vector
for the assumed label takes only one backward pass.
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
"""`estimator(model, variables, copies, *, taps)`: estimates S from perturbed copies.

The copies are images of shape [K, H, W, channels], such as those returned by
`fkjax.acquisition.perturbation.copies`; taps are the names of the activations whose z
and g are used.
"""


def given(label: jax.Array) -> LabelFn:
    """Returns S = y, a known label, such as that of a validation example."""
    return lambda log_probs, z, gradient: label


def argmax() -> LabelFn:
    """Returns S = y-hat, the label predicted by the model."""
    return lambda log_probs, z, gradient: log_probs.argmax()


def nearest(
    validation_features: jax.Array,
    validation_labels: jax.Array,
    *,
    key: jax.Array | None = None,
) -> LabelFn:
    """Returns S = p-hat(y, z), the label of the nearest validation example by R_z.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        validation_features: `pearson_features(z)` of each validation example. Shape
            [M, L].
        validation_labels: true labels of the validation examples. Shape [M].
        key: random key of the order of examples that are equally near; by default, the
            first comes first.
    """
    lots = _lots(key, len(validation_labels))

    def label_fn(log_probs: jax.Array, z: Any, gradient: Any) -> jax.Array:
        del log_probs, gradient
        similarities = similarity(pearson_features(z), validation_features)
        return validation_labels[_highest(similarities, lots)]

    return label_fn


def nearest_joint(
    validation_features: jax.Array,
    validation_labels: jax.Array,
    kernel: Kernel = multi_scale,
    *,
    key: jax.Array | None = None,
) -> LabelFn:
    """Returns S = p-hat(y, z, g), the label of the nearest example by R_{z,g}.

    All gradients g are taken for the labels predicted by the model.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        validation_features: `kernel.embed(z, g)` of each validation example. Shape
            [M, L].
        validation_labels: true labels of the validation examples. Shape [M].
        kernel: the kernel R_{z,g}.
        key: see `nearest`.
    """
    lots = _lots(key, len(validation_labels))

    def label_fn(log_probs: jax.Array, z: Any, gradient: Any) -> jax.Array:
        features = kernel.embed(z, gradient(log_probs.argmax()))
        similarities = kernel.similarity(features, validation_features)
        return validation_labels[_highest(similarities, lots)]

    return label_fn


def _lots(key: jax.Array | None, num: int) -> jax.Array:
    return (
        jnp.zeros(num) if key is None else jax.random.uniform(key, (num,), jnp.float32)
    )


def _highest(similarities: jax.Array, lots: jax.Array) -> jax.Array:
    """Returns the position of the highest similarity, and of those of the first lot."""
    return jnp.where(similarities == similarities.max(), lots, -1).argmax()


def covariance(
    model: Model, variables: Variables, copies: jax.Array, *, taps: Sequence[str]
) -> LabelFn:
    """Estimates S = argmax_c sum_k <z_k, g_k(c)>.

    The sum is K times the trace of the covariance of z and g(c). See `Estimator` for
    the arguments.

    Source: Gudovskiy et al. 2020, Sec. 4.3.
    """

    def products(copy: jax.Array) -> jax.Array:
        return feature_derivatives(model, variables, copy, taps=taps)

    return given(jax.vmap(products)(copies).sum(axis=0).argmax())


def information(
    model: Model, variables: Variables, copies: jax.Array, *, taps: Sequence[str]
) -> LabelFn:
    """Estimates S = argmax_c I(z; g(c)).

    I is `fkjax.acquisition.information.mutual_information`. See `Estimator` for the
    arguments.

    Source: Gudovskiy et al. 2020, Sec. 4.3.
    """
    return _most_informed(mutual_information, model, variables, copies, taps)


def information_diagonal(
    model: Model, variables: Variables, copies: jax.Array, *, taps: Sequence[str]
) -> LabelFn:
    """Estimates S like `information`, with I summed over single channels.

    The sum is `fkjax.acquisition.information.diagonal_information`.
    """
    return _most_informed(diagonal_information, model, variables, copies, taps)


_BYTES = 2**30  # of the classes whose information is computed at a time


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
    num_copies, num_classes, length = g.shape
    # In float64: three matrices [2 L, 2 L] and the samples.
    num_bytes = 8 * (3 * (2 * length) ** 2 + 2 * num_copies * length)
    at_once = max(1, _BYTES // num_bytes)
    if num_classes <= at_once:
        return given(jax.vmap(measure, (None, 1))(z, g).argmax())
    each = jax.lax.map(
        lambda g: measure(z, g), jnp.moveaxis(g, 1, 0), batch_size=at_once
    )
    return given(each.argmax())
