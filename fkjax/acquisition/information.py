"""Mutual information of two zero-mean Gaussian vectors, from samples, in float64.

By default, JAX computes in 32 bits, in which the determinants of these nearly singular
matrices are noise. `jax.enable_x64` allows 64 bits for functions that are *traced*
inside it. A function that `vmap` derives later, from a loop or a compiled function, is
traced outside. Therefore both functions here define their own `vmap` rule and accept
any leading axes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

_RIDGE = 1e-8


def _in_float64(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    @custom_vmap
    def mapped(z: jax.Array, g: jax.Array) -> jax.Array:
        with jax.enable_x64(True):
            return fn(z.astype(jnp.float64), g.astype(jnp.float64)).astype(jnp.float32)

    @mapped.def_vmap
    def rule(axis_size: int, is_mapped: Sequence[bool], z: jax.Array, g: jax.Array):
        # An argument that is not mapped gets an axis of size 1: `fn` broadcasts it.
        del axis_size
        z, g = (x if m else x[None] for x, m in zip((z, g), is_mapped, strict=True))
        return mapped(z, g), True

    return mapped


def _moment(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a.mT, b, precision=jax.lax.Precision.HIGHEST) / a.shape[-2]


def _log_det(matrix: jax.Array) -> jax.Array:
    """Computes log det M by a Cholesky factorization, one column at a time.

    Each column l updates M <- M - l l^T. `jnp.linalg.cholesky` is not used because on
    CPU it splits a batch among the threads that run the program, and two simultaneous
    calls can deadlock (jaxlib 0.10.2).
    """

    def eliminate(
        j: jax.Array, state: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        matrix, log_det = state
        pivot = matrix[..., j, j]
        column = matrix[..., j] / jnp.sqrt(pivot)[..., None]
        matrix -= column[..., :, None] * column[..., None, :]
        return matrix, log_det + jnp.log(pivot)

    start = (matrix, jnp.zeros_like(matrix[..., 0, 0]))
    return jax.lax.fori_loop(0, matrix.shape[-1], eliminate, start)[1]


def _full(z: jax.Array, g: jax.Array) -> jax.Array:
    ridge = _RIDGE * jnp.eye(z.shape[-1], dtype=z.dtype)
    zz, gg = (
        _moment(x, x) + jnp.expand_dims(ridge, tuple(range(x.ndim - 2))) for x in (z, g)
    )
    zg = _moment(z, g)
    (zz_each, gg_each) = (jnp.broadcast_to(c, zg.shape) for c in (zz, gg))
    joint = jnp.block([[zz_each, zg], [zg.mT, gg_each]])
    return _log_det(zz) + _log_det(gg) - _log_det(joint)


def _diagonal(z: jax.Array, g: jax.Array) -> jax.Array:
    zz, gg = (z * z).mean(-2) + _RIDGE, (g * g).mean(-2) + _RIDGE
    zg = (z * g).mean(-2)
    return (jnp.log(zz) + jnp.log(gg) - jnp.log(zz * gg - zg * zg)).sum(-1)


_full_in_float64, _diagonal_in_float64 = _in_float64(_full), _in_float64(_diagonal)


def mutual_information(z: jax.Array, g: jax.Array) -> jax.Array:
    """Computes I(z; g) = log det C_zz + log det C_gg - log det C_[z,g].

    This is twice the mutual information in nats. C = (1/K) sum_k v_k v_k^T + 1e-8 I is
    the second moment of K samples, which are not centered; 1e-8 I keeps the result
    finite if units are dead or K < L.

    Source: Gudovskiy et al. 2020, Sec. 4.3.

    Args:
        z: samples of z. Shape [K, L].
        g: samples of g. Shape [K, L].

    Returns:
        I(z; g), computed in float64 and returned in float32. Shape [].
    """
    return _full_in_float64(z, g)


def diagonal_information(z: jax.Array, g: jax.Array) -> jax.Array:
    """Sums the `mutual_information` of single channels of z and g.

        sum_i log c_zz,i + log c_gg,i - log(c_zz,i c_gg,i - c_zg,i^2)

    Args:
        z: samples of z. Shape [K, L].
        g: samples of g. Shape [K, L].

    Returns:
        The sum, computed in float64 and returned in float32. Shape [].
    """
    return _diagonal_in_float64(z, g)
