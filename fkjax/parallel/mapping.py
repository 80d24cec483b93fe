"""Mapping a function of one example over a set of examples in bounded memory."""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp

from fkjax.base import Examples
from fkjax.parallel.examples import Sharded, Streamed, take
from fkjax.parallel.rows import Rows, rows_of


def map_examples(
    fn: Callable[..., Any], examples: Examples, *others: Any, batch_size: int
) -> Any:
    """Maps `fn(example, *others)` over examples, as `vmap` does, one batch at a time.

    The last batch is padded with copies of the last example. A smaller last batch would
    be outside of the loop over the others, where XLA fuses it with the code around it,
    so that the last bits of its results depend on that code.

    Args:
        fn: function of one example.
        examples: the examples. Shape [N, H, W, channels].
        *others: pytrees of arrays with the same leading axis.
        batch_size: number of examples in a batch; it changes the speed, not the result.
            Streamed examples are read in the same batches, one batch ahead.

    Returns:
        The values that `fn` returns, with a leading axis N.
    """
    if _is_shared_out(examples, batch_size):
        rows = _share(fn, examples, others, batch_size)
        return rows.gathered(rows.read(0, rows.size))
    num, others = len(examples), jax.tree.map(jnp.asarray, others)
    if num <= batch_size:
        return jax.vmap(fn)(take(examples, jnp.arange(num)), *others)
    positions = jnp.minimum(jnp.arange(num + -num % batch_size), num - 1)
    positions = positions.reshape(-1, batch_size)
    then = jnp.concatenate([positions[1:], jnp.full((1, batch_size), -1)])

    def map_batch(batch: tuple[jax.Array, jax.Array]) -> Any:
        positions, then = batch
        parts = jax.tree.map(lambda x: x[positions], others)
        return jax.vmap(fn)(take(examples, positions, then), *parts)

    batches = jax.lax.map(map_batch, (positions, then))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num], batches)


def map_rows(
    fn: Callable[..., Any], examples: Examples, *others: Any, batch_size: int
) -> Rows:
    """Maps a function over examples, as `map_examples` does, and returns `Rows`.

    The rows of examples in memory are computed once and are in memory, too. The rows
    of streamed examples are computed each time that they are read, as they may not fit
    in memory. Each device has the rows of its share of sharded examples.

    Args:
        fn: function of one example.
        examples: the examples. Shape [N, H, W, channels].
        *others: pytrees of arrays with the same leading axis.
        batch_size: number of examples in a batch.

    Returns:
        The values that `fn` returns, as N rows.
    """
    if _is_shared_out(examples, batch_size):
        rows = _share(fn, examples, others, batch_size)
        return rows if isinstance(examples.rows, Streamed) else rows.kept()
    if isinstance(examples, Streamed):
        num = len(examples)
        return Rows(num, _reader(fn, examples, others, batch_size), num, batch_size)
    return rows_of(map_examples(fn, examples, *others, batch_size=batch_size))


def _is_shared_out(examples: Examples, batch_size: int) -> TypeGuard[Sharded]:
    """Returns whether each device maps its own share, which takes whole batches.

    Otherwise, all devices map all batches, with examples of all shares. In both cases
    the batch of an example is the same for any number of devices, and so are the bits
    of its result.
    """
    return (
        isinstance(examples, Sharded)
        and examples.ids is None
        and len(examples) > batch_size
        and len(examples.rows) % batch_size == 0
    )


def _share(
    fn: Callable[..., Any], examples: Sharded, others: tuple, batch_size: int
) -> Rows:
    start, size = examples.start, len(examples.rows)
    own = jnp.minimum(start + jnp.arange(size), len(examples) - 1)
    read = _reader(
        fn, examples.rows, jax.tree.map(lambda x: x[own], others), batch_size
    )
    return Rows(len(examples), read, size, batch_size, start, examples.axis)


def _reader(
    fn: Callable[..., Any], examples: Examples, others: tuple, batch_size: int
) -> Callable[[int | jax.Array, int], Any]:
    """Returns the `Rows.read` of rows that are computed when they are read."""

    def read(at: int | jax.Array, size: int) -> Any:
        if size == len(examples):
            return map_examples(fn, examples, *others, batch_size=batch_size)
        part = jnp.minimum(at + jnp.arange(size), len(examples) - 1)
        parts = jax.tree.map(lambda x: x[part], others)
        return map_examples(fn, examples[part], *parts, batch_size=batch_size)

    return read


def map_apart(fn: Callable[[Any], Any], xs: Any, *, batch_size: int) -> Any:
    """Maps a function as `vmap` does, without fusing it with later computations.

    On CPUs, XLA fuses a computation into a convolution or matrix product that reads its
    result, and then repeats it for each value of the product. Optimization barriers do
    not prevent this, but a loop of two or more steps does.

    Args:
        fn: function of one example.
        xs: pytree of arrays with the same leading axis.
        batch_size: largest number of examples in a step.

    Returns:
        The values that `fn` returns, with the same leading axis.
    """
    half = len(jax.tree.leaves(xs)[0]) // 2
    return jax.lax.map(fn, xs, batch_size=max(1, min(batch_size, half)))
