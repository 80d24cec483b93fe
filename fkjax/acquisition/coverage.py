"""Strategies that cover the pool: each pick is far from the labeled examples.

Distances are between unit-norm Fisher features phi (`fkjax.acquisition.scene`). The
centers are the labeled examples, with the validation set if the model has been trained
on it, and the picks. Before there is a center, all distances are 2, the largest that
two features can have.

The factories take the arguments of those in `fkjax.acquisition.complement`, except
`noise`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition.greedy import Gain, Picked, of_chunks, rows_at
from fkjax.acquisition.scene import Scene, greedy_strategy
from fkjax.base import Model, Strategy
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.parallel.rows import Rows

_FARTHEST = 4.0  # squared distance of unit vectors
_AT_ONCE = 256  # centers


class _ByCenter(NamedTuple):
    """The nearest center of a row."""

    distance: jax.Array  # Squared. Shape [].
    center: jax.Array  # Position in the pool, then in the validation set. Shape [].
    square: jax.Array  # Squared norm of phi. Shape [].
    position: jax.Array  # Of the row itself. Shape [].


def _by(gain: Callable[[Scene], Gain]) -> Callable[..., Strategy]:
    """Returns the factory of strategies that pick by `gain(scene)`."""

    def factory(
        model: Model,
        *,
        taps: Sequence[str],
        budget: int,
        batch_size: int = 100,
        kernel: Kernel = multi_scale,
        trains_on_validation: bool = False,
    ) -> Strategy:
        return greedy_strategy(
            model,
            gain,
            taps=taps,
            budget=budget,
            batch_size=batch_size,
            kernel=kernel,
            trains_on_validation=trains_on_validation,
        )

    return factory


def nearest_centers(scene: Scene) -> _ByCenter:
    """Returns the state of each row of this device's share, before the first pick."""
    pool, num = scene.pool, scene.pool.num
    num_validation = len(scene.validation)
    rows = of_chunks(
        pool,
        lambda phi: _ByCenter(
            jnp.full(len(phi), jnp.inf, phi.dtype),
            jnp.full(len(phi), num + num_validation, jnp.int32),
            (phi**2).sum(axis=1),
            jnp.zeros(len(phi), jnp.int32),
        ),
    )
    own = pool.start + jnp.arange(pool.size, dtype=jnp.int32)
    rows = rows._replace(position=own)

    def nearer(rows: _ByCenter, centers: jax.Array, ids: jax.Array) -> _ByCenter:
        squares = (centers**2).sum(axis=1)

        def of_chunk(phi: jax.Array, rows: _ByCenter) -> _ByCenter:
            products = jnp.matmul(phi, centers.T, precision=jax.lax.Precision.HIGHEST)

            def one(row: _ByCenter, products: jax.Array) -> _ByCenter:
                distances = row.square + squares - 2 * products
                distances = jnp.where(ids >= 0, distances, jnp.inf)
                at = distances.argmin()
                return _nearer(row, distances[at], ids[at])

            return jax.vmap(one)(rows, products)

        return of_chunks(pool, of_chunk, rows)

    def with_centers(
        rows: _ByCenter,
        ids: jax.Array,
        num_centers: int | jax.Array,
        read: Callable[[jax.Array], jax.Array],
    ) -> _ByCenter:
        ids = jnp.pad(ids, (0, -len(ids) % _AT_ONCE), constant_values=-1)

        def of_chunk(i: jax.Array, rows: _ByCenter) -> _ByCenter:
            own = jax.lax.dynamic_slice_in_dim(ids, i * _AT_ONCE, _AT_ONCE)
            return nearer(rows, read(own), own)

        return jax.lax.fori_loop(0, -(-num_centers // _AT_ONCE), of_chunk, rows)

    if scene.trains_on_validation and num_validation:
        last = num_validation - 1
        rows = with_centers(
            rows,
            num + jnp.arange(num_validation, dtype=jnp.int32),
            num_validation,
            lambda ids: scene.validation[jnp.clip(ids - num, 0, last)],
        )
    order = jnp.argsort(~scene.is_labeled).astype(jnp.int32)
    labeled = jnp.where(scene.is_labeled[order], order, -1)
    num_labeled = scene.is_labeled.sum()
    return with_centers(rows, labeled, num_labeled, lambda ids: rows_at(pool, ids))


def _nearer(row: _ByCenter, distance: jax.Array, center: jax.Array) -> _ByCenter:
    """Returns the state of a row after a center has been added."""
    distance = jnp.maximum(distance, 0)
    is_nearer = distance < row.distance
    return row._replace(
        distance=jnp.where(is_nearer, distance, row.distance),
        center=jnp.where(is_nearer, center, row.center),
    )


def _directions(shared: jax.Array, picked: Picked) -> jax.Array:
    del shared
    return picked.row[:, None]


def _update(
    shared: jax.Array, picked: Picked, row: _ByCenter, products: jax.Array
) -> _ByCenter:
    del shared
    distance = row.square + picked.state.square - 2 * products[0]
    return _nearer(row, distance, picked.state.position)


def _core_set(scene: Scene) -> Gain:
    return Gain(
        (),
        nearest_centers(scene),
        lambda shared, row: jnp.minimum(row.distance, _FARTHEST),
        _directions,
        _update,
        lambda shared, picked: shared,
    )


def _lcmd(scene: Scene) -> Gain:
    num_centers = scene.pool.num + len(scene.validation) + 1

    def value(largest: jax.Array, row: _ByCenter) -> jax.Array:
        distance = jnp.minimum(row.distance, _FARTHEST)
        return jnp.where(row.center == largest, distance, -jnp.inf)

    def survey(
        pool: Rows, largest: jax.Array, rows: _ByCenter, is_open: jax.Array
    ) -> jax.Array:
        del largest
        distance = jnp.where(is_open, jnp.minimum(rows.distance, _FARTHEST), 0)
        sizes = cluster_sizes(pool, distance, rows.center, num_centers)
        return sizes.argmax().astype(jnp.int32)

    return Gain(
        jnp.int32(0),
        nearest_centers(scene),
        value,
        _directions,
        _update,
        lambda shared, picked: shared,
        survey,
    )


def cluster_sizes(
    pool: Rows, distance: jax.Array, center: jax.Array, num_centers: int
) -> jax.Array:
    """Returns the sum of the squared distances to each center.

    They are added as integers, of which the order does not change the sum: two for each
    distance, with as many bits as N integers may have.

    Args:
        pool: the rows.
        distance: squared distance of each row of the share, 0 .. 4.
        center: center of each row.
        num_centers: number of centers.

    Returns:
        The sum of each center over all devices. Shape [num_centers].
    """
    scale = 2.0 ** (30 - math.ceil(math.log2(max(pool.num, 2))))
    scaled = distance.astype(jnp.float32) * (scale / _FARTHEST)
    high = jnp.floor(scaled)
    low = jnp.floor((scaled - high) * scale)
    sums = jnp.zeros((num_centers, 2), jnp.int32)
    sums = sums.at[center].add(jnp.stack([high, low], axis=1).astype(jnp.int32))
    if pool.axis is not None:
        sums = jax.lax.psum(sums, pool.axis)
    high, low = sums.astype(jnp.float32).T
    return (high + low / scale) * (_FARTHEST / scale)


core_set = _by(_core_set)
"""Queries the example that is farthest from its nearest center.

Source: Sener and Savarese 2018 (greedy k-center).
"""

lcmd = _by(_lcmd)
"""Queries the farthest example of the largest cluster.

A cluster is the unlabeled examples with the same nearest center, and its size is the
sum of their squared distances. Source: Holzmueller et al. 2023 (LCMD).
"""
