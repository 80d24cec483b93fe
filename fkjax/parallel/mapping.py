"""A function of one example, mapped over sets of examples in bounded memory."""

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
    """`fn(example, *others)` of each example, some at a time: `vmap` in bounded memory.

    The last batch is filled up with copies of the last example. Smaller, it would stand
    outside of the loop over the others; XLA fuses what does with what surrounds it, and
    then the last bits of an example's result depend on that.

    Args:
        fn: of one example.
        examples: Shape [N, H, W, channels].
        *others: pytrees of arrays with the same leading axis.
        batch_size: how many at a time; it changes the speed, not the result. Streamed
            examples are read in such batches too, one ahead.

    Returns:
        What `fn` returns, with a leading axis N.
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
    """`map_examples` of which a part at a time is read, and each device has a share.

    Of examples in memory the rows are in memory, too. Of streamed examples they are
    made whenever they are read, and only then: those of all may not fit.

    Args and returns are those of `map_examples`, but for the kind of the result.
    """
    if _is_shared_out(examples, batch_size):
        rows = _share(fn, examples, others, batch_size)
        return rows if isinstance(examples.rows, Streamed) else rows.kept()
    if isinstance(examples, Streamed):
        num = len(examples)
        return Rows(num, _reader(fn, examples, others, batch_size), num, batch_size)
    return rows_of(map_examples(fn, examples, *others, batch_size=batch_size))


def _is_shared_out(examples: Examples, batch_size: int) -> TypeGuard[Sharded]:
    """Whether each device maps its own share: whole batches, as one device has them.

    Otherwise all devices map all batches, which they take from each other: then an
    example's batch is the same on any number of devices as well, and so are its bits.
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
    """`Rows.read` of rows that are made when they are read."""

    def read(at: int | jax.Array, size: int) -> Any:
        if size == len(examples):
            return map_examples(fn, examples, *others, batch_size=batch_size)
        part = jnp.minimum(at + jnp.arange(size), len(examples) - 1)
        parts = jax.tree.map(lambda x: x[part], others)
        return map_examples(fn, examples[part], *parts, batch_size=batch_size)

    return read


def map_apart(fn: Callable[[Any], Any], xs: Any, *, batch_size: int) -> Any:
    """`vmap` whose result is finished before anyone reads it.

    XLA on CPU fuses what is computed into what reads it, and computes it anew for each
    value of a convolution or of a product that does; no barrier stops it from that. A
    loop does, if it has two steps or more.

    Args:
        fn: of one example.
        xs: a pytree of arrays with the same leading axis.
        batch_size: the most at a time.

    Returns:
        What `fn` returns, with that leading axis.
    """
    half = len(jax.tree.leaves(xs)[0]) // 2
    return jax.lax.map(fn, xs, batch_size=max(1, min(batch_size, half)))
