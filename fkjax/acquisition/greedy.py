"""Greedy selection: the example of the highest gain, one after the other.

After each pick, the gains of all rows are updated from a few inner products with the
row that was picked, so that no [N, N] array is needed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import key_for
from fkjax.parallel.rows import Rows

_MOST_ROWS = 8192
"""Number of rows in a matrix product. It does not depend on the number of devices,
because XLA may sum in a different order for a different shape."""


class Picked(NamedTuple):
    """The row that was picked last.

    Attributes:
        row: features of the row, phi_j. Shape [K].
        state: state of the row before the pick; a pytree like that of `Gain.rows`.
    """

    row: jax.Array
    state: Any


class Gain(NamedTuple):
    """A gain that is kept up to date for every row.

    Attributes:
        shared: state that all rows share; a pytree of arrays.
        rows: state of each row; a pytree of arrays with a leading axis N.
        value: function `value(shared, row) -> []`: gain of one row from its state.
        directions: function `directions(shared, picked) -> [K, P]`: vectors of which
            `update` needs the inner products with every row.
        update: function `update(shared, picked, row, products [P]) -> row`: state of
            one row after a pick.
        share: function `share(shared, picked) -> shared`: shared state after a pick.
        survey: function `survey(pool, shared, rows, is_open) -> shared`, called before
            each pick with the states of all rows of this device's share; None if
            `shared` does not depend on them.
    """

    shared: Any
    rows: Any
    value: Callable[[Any, Any], jax.Array]
    directions: Callable[[Any, Picked], jax.Array]
    update: Callable[[Any, Picked, Any, jax.Array], Any]
    share: Callable[[Any, Picked], Any]
    survey: Callable[[Rows, Any, Any, jax.Array], Any] | None = None


def pick(
    key: jax.Array, pool: Rows, is_open: jax.Array, gain: Gain, *, budget: int
) -> tuple[jax.Array, jax.Array]:
    """Picks `budget` rows, each of the highest gain given those before it.

    Ties are broken at random. Gains that are NaN or -inf are the lowest.

    Args:
        key: random key of the order of ties.
        pool: features of the pool, phi, which are in memory. Each device has a share.
            Shape [N, K].
        is_open: whether each row can be picked; `budget` or more can. Shape [N] bool.
        gain: gain of this device's share of the rows.
        budget: number of rows to pick, B.

    Returns:
        The positions of the rows in the order of the picks, and their gains, which are
        NaN where all were NaN or -inf. Shapes [B].
    """
    own = pool.start + jnp.arange(pool.size)
    lot = jax.random.uniform(key_for(key, "lot"), (pool.num,), jnp.float32)
    lot = lot.at[own].get(mode="clip")
    is_open = is_open.at[own].get(mode="fill", fill_value=False)

    def step(state: tuple[Any, Any, jax.Array], _: None) -> tuple[Any, Any]:
        shared, rows, is_open = state
        if gain.survey is not None:
            shared = gain.survey(pool, shared, rows, is_open)
        gains = jax.vmap(gain.value, in_axes=(None, 0))(shared, rows)
        # An open row comes before a closed one, whatever its gain.
        lowest = jnp.finfo(gains.dtype).min
        finite = jnp.nan_to_num(gains, nan=lowest)
        gains = jnp.where(is_open, finite, -jnp.inf)
        best, winner, at = _highest(pool, gains, lot)
        is_here = jnp.arange(pool.size) == at
        picked = _broadcast(pool, (pool.read(at, 1), _one(rows, at)), winner)
        picked = Picked(*jax.tree.map(lambda x: x[0], picked))
        directions = gain.directions(shared, picked)

        def updated(phi: jax.Array, rows: Any) -> Any:
            products = jnp.matmul(phi, directions, precision=jax.lax.Precision.HIGHEST)
            return jax.vmap(gain.update, in_axes=(None, None, 0, 0))(
                shared, picked, rows, products
            )

        rows = of_chunks(pool, updated, rows)
        is_open &= ~(is_here & winner)
        position = _broadcast(pool, (pool.start + at)[None], winner)[0]
        best = jnp.where(best > lowest, best, jnp.nan)
        return (gain.share(shared, picked), rows, is_open), (position, best)

    start = gain.shared, gain.rows, is_open
    return jax.lax.scan(step, start, length=budget)[1]


def of_chunks(pool: Rows, fn: Callable[..., Any], *others: Any) -> Any:
    """Returns `fn` of the rows of this share, computed in chunks of the same shape.

    Args:
        pool: features of the pool. Shape [N, K].
        fn: function of a chunk of rows, and of the same rows of `others`. It returns
            values for each row.
        *others: pytrees of arrays with one row for each row of the share.
    """
    length = min(_MOST_ROWS, max(256, -(-pool.num // 8)))
    if length >= pool.size:
        whole = pool.read(0, pool.size), *others
        padded = jax.tree.map(
            lambda x: jnp.pad(
                x, ((0, length - pool.size), *[(0, 0)] * (jnp.ndim(x) - 1))
            ),
            whole,
        )
        return jax.tree.map(lambda x: x[: pool.size], fn(*padded))
    last = pool.size - length

    def of_chunk(start: jax.Array) -> Any:
        at = jnp.minimum(start, last)
        parts = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, at, length), others
        )
        return fn(pool.read(at, length), *parts)

    chunks = jax.lax.map(of_chunk, jnp.arange(0, pool.size, length))

    def joined(x: jax.Array) -> jax.Array:
        before = x[:-1].reshape(-1, *x.shape[2:])
        return jnp.concatenate([before, x[-1][len(before) - last :]])

    return jax.tree.map(joined, chunks)


def _highest(
    pool: Rows, gains: jax.Array, lot: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the highest gain, whether it is here, and its position in the share."""
    best = gains.max()
    at = jnp.where(gains == best, lot, -1).argmax()
    if pool.axis is None:
        return best, jnp.bool_(True), at
    bests, lots = jax.lax.all_gather((best, lot[at]), pool.axis)
    winner = jnp.where(bests == bests.max(), lots, -1).argmax()
    return bests.max(), winner == jax.lax.axis_index(pool.axis), at


def rows_at(pool: Rows, positions: jax.Array) -> Any:
    """Returns the rows at some positions of the set, on each device.

    Args:
        pool: the set, in memory.
        positions: positions of the rows. Shape [P].
    """
    at = positions - pool.start
    is_here = (at >= 0) & (at < pool.size)
    rows = jax.vmap(lambda i: pool.read(i, 1)[0])(jnp.clip(at, 0, pool.size - 1))
    return _broadcast(pool, rows, is_here[:, None])


def _one(rows: Any, at: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, 1), rows)


def _broadcast(pool: Rows, value: Any, is_here: jax.Array) -> Any:
    """Returns the value of the device where `is_here` is true."""
    if pool.axis is None:
        return value
    axis = pool.axis
    return jax.tree.map(
        lambda x: jax.lax.psum(jnp.where(is_here, x, jnp.zeros_like(x)), axis), value
    )
