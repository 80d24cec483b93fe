"""The factors of a linear layer's gradients: its inputs and its errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Factors(NamedTuple):
    """A gradient of weights as backpropagation has it before it adds: sum_t a_t d_t^T.

    Attributes:
        a: the layer's inputs (patches, for a convolution) at its T positions, T = 1 for
            a dense layer. Shape [T, m], or [N, T, m] of N examples.
        d: the errors d log p(s | x) / d outputs there. Shape [T, n] or [N, T, n].
    """

    a: jax.Array
    d: jax.Array


def with_bias(a: jax.Array) -> jax.Array:
    """Inputs with a trailing 1, whose weights are the bias. Shape [..., m + 1]."""
    return jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], axis=-1)


def weight_gradient(a: jax.Array, d: jax.Array) -> jax.Array:
    """The Fisher vector sum_t a_t d_t^T itself, of one example.

    Args:
        a: inputs, with a trailing 1 where there is a bias. Shape [m] or [T, m].
        d: errors. Shape [n] or [T, n].

    Returns:
        Shape [m, n].
    """
    a, d = (jnp.atleast_2d(x) for x in (a, d))
    if len(a) == 1:
        return a[0, :, None] * d[0]
    # Else XLA computes the patches anew inside the product, and, mapped over examples,
    # multiplies in the layout of the convolutions, where a matrix is strided.
    a_transposed, d = jax.lax.optimization_barrier((a.T, d))
    return jnp.matmul(a_transposed, d, precision=jax.lax.Precision.HIGHEST)
