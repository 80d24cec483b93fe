"""Models of precomputed outputs: features and logits computed by another program."""

import functools

import jax

from fkjax.base import Model, Tap, Variables, no_tap

FEATURES, LOGITS = "features", "logits"


@functools.cache
def from_outputs(num_features: int, num_classes: int) -> Model:
    """Returns a model whose inputs are precomputed features and logits.

    An "image" of shape [1, 1, d + C] holds the penultimate features and the logits of
    an example. They determine the probabilities, the features z and the gradient with
    respect to the logits, e_s - p. This is sufficient for the Fisher vectors of the
    last layer (`fkjax.fisher.kernel.last_layer`) and for strategies that need one pass
    without dropout.

    >>> model = from_outputs(2, 3)
    >>> row = jax.numpy.array([[[[0.5, 0.5, 1.0, 2.0, 3.0]]]])
    >>> model.apply(Variables({}), row).tolist()
    [[1.0, 2.0, 3.0]]

    Args:
        num_features: number of features, d.
        num_classes: number of classes, C.

    Returns:
        The model, which has no parameters and the taps "features" and "logits".
    """

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        del variables
        rows = images.reshape(len(images), num_features + num_classes)
        tap(FEATURES, rows[:, :num_features])
        return tap(LOGITS, rows[:, num_features:])

    def init(key: jax.Array) -> Variables:
        del key
        return Variables({})

    return Model(
        init,
        apply,
        (FEATURES, LOGITS),
        "",
        (1, 1, num_features + num_classes),
        num_classes,
    )
