"""A network that ran elsewhere, as a model whose images are its own outputs."""

import functools

import jax

from fkjax.base import Model, Tap, Variables, no_tap

FEATURES, LOGITS = "features", "logits"


@functools.cache
def from_outputs(num_features: int, num_classes: int) -> Model:
    """The last layer of any network, of which only inputs and outputs are known.

    An "image" of shape [1, 1, d + C] holds an example's penultimate features and its
    logits. That is enough for the probabilities, the features z, and the gradient by
    the logits, e_s - p; so for the last layer's Fisher vectors
    (`fkjax.fisher.kernel.last_layer`), and for what needs one pass without dropout.

    >>> model = from_outputs(2, 3)
    >>> row = jax.numpy.array([[[[0.5, 0.5, 1.0, 2.0, 3.0]]]])
    >>> model.apply(Variables({}), row).tolist()
    [[1.0, 2.0, 3.0]]

    Args:
        num_features: d.
        num_classes: C.

    Returns:
        A model without parameters, with the taps "features" and "logits".
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
