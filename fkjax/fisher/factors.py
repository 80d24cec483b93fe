"""The factors of the gradients of linear layers: inputs and errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import widened


class Factors(NamedTuple):
    """The factors of the gradient of a layer's weights, sum_t a_t d_t^T.

    Attributes:
        a: inputs of the layer (patches, for a convolution) at its T positions; T is 1
            for a dense layer. Shape [T, m], or [N, T, m] for N examples.
        d: errors d log p(s | x) / d outputs at these positions. Shape [T, n], or
            [N, T, n] for N examples.
    """

    a: jax.Array
    d: jax.Array


def with_bias(a: jax.Array) -> jax.Array:
    """Appends a 1 to the inputs, so that the bias is a weight. Shape [..., m + 1]."""
    return jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], axis=-1)


def weight_gradient(a: jax.Array, d: jax.Array) -> jax.Array:
    """Computes the Fisher vector sum_t a_t d_t^T of one example.

    Args:
        a: inputs, with a trailing 1 if the layer has a bias. Shape [m] or [T, m].
        d: errors. Shape [n] or [T, n].

    Returns:
        The Fisher vector as a matrix, in float32 or wider. Shape [m, n].
    """
    a, d = (jnp.atleast_2d(x) for x in (a, d))
    if len(a) == 1:
        return widened(a)[0, :, None] * widened(d)
    # Without the barrier, XLA recomputes the patches inside the product. Mapped over
    # examples, it also multiplies in the convolutions' layout, with strided matrices.
    a_transposed, d = jax.lax.optimization_barrier((a.T, d))
    return matmul(a_transposed, d)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiplies at the highest precision, and sums in float32 or wider."""
    return jnp.matmul(
        x,
        y,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(jnp.result_type(x, y), jnp.float32),
    )
