"""The label assumed for an example whose label nobody has told.

Each function makes a `fkjax.fisher.LabelFn`, so that the Fisher vector under the
assumed label costs the backward pass alone.
"""

import jax

from fkjax.fisher import LabelFn
from fkjax.kernel import pearson_features, similarity


def given(label: jax.Array) -> LabelFn:
    """S = y: a label that is known, such as a validation example's."""
    return lambda log_probs, z: label


def argmax() -> LabelFn:
    """S = y-hat: what the model itself predicts."""
    return lambda log_probs, z: log_probs.argmax()


def nearest(validation_features: jax.Array, validation_labels: jax.Array) -> LabelFn:
    """S = p-hat(y, z): the true label of the most similar validation example, by R_z.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        validation_features: `pearson_features(z)` of each. Shape [M, L].
        validation_labels: Shape [M].
    """

    def label_fn(log_probs: jax.Array, z: dict[str, jax.Array]) -> jax.Array:
        del log_probs
        return validation_labels[
            similarity(pearson_features(z), validation_features).argmax()
        ]

    return label_fn
