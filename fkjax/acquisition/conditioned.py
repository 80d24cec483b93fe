"""Acquisition functions on a Gaussian process that is conditioned on labeled examples.

The process f(x) = phi(x)^T w, with w ~ N(0, I), is observed with noise of variance s2.
Given a set A of observed examples, w has the covariance

    M = (I + Phi_A^T Phi_A / s2)^-1,

and the variance of an example is v(i) = phi_i^T M phi_i. With u = M phi_j and
d = s2 + v(j), observing one more example j gives

    M <- M - u u^T / d,        v(i) <- v(i) - (phi_i^T u)^2 / d.

Each function here returns a `Gain` for `fkjax.acquisition.greedy.pick`, at the cost of
one or two products [N, K] x [K] for each pick. N is the number of rows of a device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition.greedy import Gain, Picked, of_chunks
from fkjax.parallel.rows import Rows

_PRECISE = jax.lax.Precision.HIGHEST
_BLOCK = 200
"""Number of rows in a block of a sum. The shares of devices are multiples of it."""


def gram(features: Rows, weights: jax.Array) -> jax.Array:
    """Returns sum_i weights_i phi_i phi_i^T.

    Args:
        features: features of N examples, phi. Shape [N, K].
        weights: weight of each example; 0 leaves it out. Shape [N].

    Returns:
        The sum, with the same bits for any number of devices. Shape [K, K].
    """

    def of_block(weights: jax.Array, phi: jax.Array) -> jax.Array:
        return jnp.matmul((phi * weights[:, None]).T, phi, precision=_PRECISE)

    return _sum(features, weights, of_block)


def total(features: Rows, weights: jax.Array) -> jax.Array:
    """Returns sum_i weights_i phi_i.

    Args:
        features: features of N examples, phi. Shape [N, K].
        weights: weight of each example; 0 leaves it out. Shape [N].

    Returns:
        The sum, with the same bits for any number of devices. Shape [K].
    """

    def of_block(weights: jax.Array, phi: jax.Array) -> jax.Array:
        return (phi * weights[:, None]).sum(axis=0)

    return _sum(features, weights, of_block)


def _sum(
    features: Rows,
    weights: jax.Array,
    of_block: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Sums over blocks of rows, in the same order for any number of devices."""
    size = min(_BLOCK, features.size)
    block = jax.eval_shape(lambda: features.read(0, size))
    of_rows = jax.ShapeDtypeStruct((size,), block.dtype)
    weights = jnp.asarray(weights, block.dtype)

    def add(total: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
        at = jnp.minimum(start, features.size - size)
        phi = jnp.roll(features.read(at, size), at - start, axis=0)
        phi = jnp.pad(phi, ((0, _BLOCK - size), (0, 0)))
        positions = start + jnp.arange(_BLOCK)
        own = weights.at[features.start + positions].get(mode="fill", fill_value=0)
        return total + of_block(jnp.where(positions < features.size, own, 0), phi), None

    def added(total: jax.Array) -> jax.Array:
        return jax.lax.scan(add, total, jnp.arange(0, features.size, _BLOCK))[0]

    shape = jax.eval_shape(of_block, of_rows, block).shape
    total = jnp.zeros(shape, block.dtype)
    if features.axis is None:
        return added(total)
    for device in range(jax.lax.axis_size(features.axis)):
        is_next = jax.lax.axis_index(features.axis) == device
        total = jax.lax.cond(is_next, added, jnp.zeros_like, total)
        total = jax.lax.psum(total, features.axis)
    return total


def covariance(gram: jax.Array, *, noise: float) -> jax.Array:
    """Returns M = (I + gram / noise)^-1, by a Cholesky factorization.

    Args:
        gram: sum of phi_a phi_a^T over the observed examples. Shape [K, K].
        noise: variance of the noise, s2.

    Returns:
        The covariance of the weights w. Shape [K, K].
    """
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    factor = jax.scipy.linalg.cho_factor(eye + gram / noise, lower=True)
    inverse = jax.scipy.linalg.cho_solve(factor, eye)
    return (inverse + inverse.T) / 2


class _Ratio(NamedTuple):
    """The shared state of `fisher_ratio`, or the state of one row."""

    m: jax.Array  # M, or v(i). Shape [K, K], or [].
    g: jax.Array  # G = M Sigma M, or t(i). Shape [K, K], or [].


def fisher_ratio(
    pool: Rows, covariance: jax.Array, target: jax.Array, *, noise: float
) -> Gain:
    """Returns the gain of the Fisher information ratio, tr(M Sigma).

    An example lowers the trace by t(i) / (v(i) + s2), where t(i) = phi_i^T G phi_i and
    G = M Sigma M. If Sigma is the second moment of some targets, this is the reduction
    of the sum of their variances (variational transductive learning).

    Source: Zhang and Oles 2000; Sourati et al. 2017; Ash et al. 2021 (BAIT, for
    features of rank 1); Huebotter et al. 2024 (VTL).

    Args:
        pool: features of the pool, phi. Shape [N, K].
        covariance: M, for the labeled examples. Shape [K, K].
        target: second moment of the targets, Sigma. Shape [K, K].
        noise: variance of the noise, s2.
    """
    g = jnp.linalg.multi_dot([covariance, target, covariance], precision=_PRECISE)
    shared = _Ratio(covariance, (g + g.T) / 2)

    def value(shared: _Ratio, row: _Ratio) -> jax.Array:
        del shared
        return row.g / (row.m + noise)

    def directions(shared: _Ratio, picked: Picked) -> jax.Array:
        both = _times(shared.m, picked.row), _times(shared.g, picked.row)
        return jnp.stack(both, axis=1)

    def update(shared: Any, picked: Picked, row: _Ratio, products: jax.Array) -> _Ratio:
        del shared
        (c, e), d = products, noise + picked.state.m
        v = row.m - c**2 / d
        t = row.g - 2 * c * e / d + picked.state.g * c**2 / d**2
        return _Ratio(jnp.maximum(v, 0), jnp.maximum(t, 0))

    def share(shared: _Ratio, picked: Picked) -> _Ratio:
        u, h = directions(shared, picked).T
        d = noise + picked.state.m
        uu, uh = jnp.outer(u, u), jnp.outer(u, h)
        return _Ratio(
            shared.m - uu / d, shared.g - (uh + uh.T) / d + picked.state.g * uu / d**2
        )

    rows = of_chunks(
        pool, lambda phi: _Ratio(_quadratic(phi, shared.m), _quadratic(phi, shared.g))
    )
    return Gain(shared, rows, value, directions, update, share)


def variance(pool: Rows, covariance: jax.Array, *, noise: float) -> Gain:
    """Returns the gain v(i): the largest variance, and so the largest determinant.

    Source: Holzmueller et al. 2023 (MaxDet).

    Args:
        pool: features of the pool, phi. Shape [N, K].
        covariance: M, for the labeled examples. Shape [K, K].
        noise: variance of the noise, s2.
    """

    def value(shared: jax.Array, row: jax.Array) -> jax.Array:
        del shared
        return row

    def directions(shared: jax.Array, picked: Picked) -> jax.Array:
        return _times(shared, picked.row)[:, None]

    def update(
        shared: Any, picked: Picked, row: jax.Array, products: jax.Array
    ) -> jax.Array:
        del shared
        return jnp.maximum(row - products[0] ** 2 / (noise + picked.state), 0)

    def share(shared: jax.Array, picked: Picked) -> jax.Array:
        u = _times(shared, picked.row)
        return shared - jnp.outer(u, u) / (noise + picked.state)

    rows = of_chunks(pool, lambda phi: _quadratic(phi, covariance))
    return Gain(covariance, rows, value, directions, update, share)


def mutual_information(
    pool: Rows, covariance: jax.Array, given_targets: jax.Array, *, noise: float
) -> Gain:
    """Returns the gain of the mutual information of the picks and the targets.

    The gain is (log(v(i) + s2) - log(v'(i) + s2)) / 2 in nats, where v' is the variance
    given the targets as well.

    Source: Kothawade et al. 2021 (log-determinant mutual information); Huebotter et
    al. 2024 (ITL).

    Args:
        pool: features of the pool, phi. Shape [N, K].
        covariance: M, for the labeled examples. Shape [K, K].
        given_targets: M, for the labeled examples and the targets. Shape [K, K].
        noise: variance of the noise, s2.
    """
    one, other = (variance(pool, m, noise=noise) for m in (covariance, given_targets))

    def each(picked: Picked) -> tuple[Picked, Picked]:
        first, second = picked.state
        return Picked(picked.row, first), Picked(picked.row, second)

    def value(shared: Any, row: tuple[jax.Array, jax.Array]) -> jax.Array:
        del shared
        return (jnp.log(row[0] + noise) - jnp.log(row[1] + noise)) / 2

    def directions(shared: Any, picked: Picked) -> jax.Array:
        both = zip((one, other), shared, each(picked), strict=True)
        return jnp.concatenate([of.directions(m, p) for of, m, p in both], axis=1)

    def update(shared: Any, picked: Picked, row: Any, products: jax.Array) -> Any:
        first, second = each(picked)
        return (
            one.update(shared[0], first, row[0], products[:1]),
            other.update(shared[1], second, row[1], products[1:]),
        )

    def share(shared: Any, picked: Picked) -> Any:
        both = zip((one, other), shared, each(picked), strict=True)
        return tuple(of.share(m, p) for of, m, p in both)

    return Gain(
        (one.shared, other.shared),
        (one.rows, other.rows),
        value,
        directions,
        update,
        share,
    )


def herding(
    pool: Rows, mean: jax.Array, total: jax.Array, num: int | jax.Array
) -> Gain:
    """Returns the gain phi_i^T (mean - total / (num + 1)) of kernel herding.

    The labeled examples and the picks approach the mean of the targets.

    Source: Chen, Welling and Smola 2010.

    Args:
        pool: features of the pool, phi. Shape [N, K].
        mean: mean of the targets' features. Shape [K].
        total: sum of the features of the labeled examples. Shape [K].
        num: number of labeled examples.
    """
    num = jnp.asarray(num, mean.dtype)

    def value(shared: jax.Array, row: tuple[jax.Array, jax.Array]) -> jax.Array:
        to_mean, to_total = row
        return to_mean - to_total / (shared + 1)

    def directions(shared: jax.Array, picked: Picked) -> jax.Array:
        del shared
        return picked.row[:, None]

    def update(shared: Any, picked: Picked, row: Any, products: jax.Array) -> Any:
        del shared, picked
        return row[0], row[1] + products[0]

    def share(shared: jax.Array, picked: Picked) -> jax.Array:
        del picked
        return shared + 1

    both = jnp.stack([mean, total], axis=1)
    rows = of_chunks(pool, lambda phi: jnp.matmul(phi, both, precision=_PRECISE))
    return Gain(num, (rows[:, 0], rows[:, 1]), value, directions, update, share)


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, vector, precision=_PRECISE)


def _quadratic(phi: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns phi_i^T matrix phi_i of each row. Shape [N]."""
    return (jnp.matmul(phi, matrix, precision=_PRECISE) * phi).sum(axis=1)
