"""Computing with all devices of all processes: each has a share of the examples.

A part of a round is one program that all devices run alike, each with all of the small
arrays and its share of the examples (`on_all_devices`). What they exchange is written
in the code that reads examples (`fkjax.parallel.examples.Sharded`,
`fkjax.parallel.mapping`) or searches them (`fkjax.acquisition.neighbors`); the compiler
shards nothing. What they do not share out, such as training, all of them do, on equal
numbers: so are the results those of one device, bit for bit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fkjax.base import Examples
from fkjax.parallel.examples import Sharded, Streamed

_AXIS = "examples"
_SMALL, _LARGE = 200, 1600
"""Shares of small and of large sets are multiples of these, so that they are two or
more whole batches of most sizes: XLA would take a loop of one step apart."""


def device_mesh() -> Mesh:
    """All devices, in a row."""
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def map_shares(
    fn: Callable[[Any, Any, jax.Array], Any], shared: Any, examples: Any, *, mesh: Mesh
) -> Any:
    """`fn(shared, examples, 0)`, computed by every device on its share of the examples.

    For an fn that treats examples one by one, such as `fkjax.sketch.embedding.embed`;
    its gradients are of its own examples, not summed over devices.

    >>> double = lambda scale, xs, start: scale * xs
    >>> map_shares(double, 2.0, jnp.arange(3.0), mesh=device_mesh())
    Array([0., 2., 4.], dtype=float32)

    Args:
        fn: called as `fn(shared, share, start)`, where start is the position of the
            share's first example; returns arrays with one row an example.
        shared: a pytree that every device has whole, such as variables.
        examples: a pytree with a leading axis N on every leaf.
        mesh: of one axis, such as `device_mesh()`.

    Returns:
        What fn returns, with a leading axis N. If N is not a multiple of the devices,
        the last share is filled up with copies of the last example, and cut off again.
    """
    num = len(jax.tree.leaves(examples)[0])
    share = -(-num // mesh.size)
    (axis,) = mesh.axis_names

    def fill_up(x: jax.Array) -> jax.Array:
        return x[jnp.minimum(jnp.arange(share * mesh.size), num - 1)]

    def local(shared: Any, examples: Any) -> Any:
        return fn(shared, examples, jax.lax.axis_index(axis) * share)

    # Unchecked, a gradient inside is the device's own. Checked, one by anything that is
    # the same on all devices, such as the parameters, would be summed over them.
    rows = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(axis)),
        out_specs=PartitionSpec(axis),
        check_vma=False,
    )(shared, examples if num % mesh.size == 0 else jax.tree.map(fill_up, examples))
    return jax.tree.map(lambda x: x[:num], rows)


def shard(examples: Examples, mesh: Mesh) -> Sharded:
    """Examples of which each device has a share; a process keeps those of its devices.

    Args:
        examples: in this process's memory, or streamed. Shape [N, H, W, channels].
        mesh: of one axis, such as `device_mesh()`.

    Returns:
        The examples, for a program of `on_all_devices`.
    """
    num, each = len(examples), -(-len(examples) // mesh.size)
    unit = _LARGE if each >= 8 * _LARGE else _SMALL
    total = mesh.size * -(-each // unit) * unit
    (axis,) = mesh.axis_names

    def shared_out(rows: Any) -> jax.Array:
        def of_device(index: Any) -> np.ndarray:
            positions = np.arange(total)[index[0]]
            return np.asarray(rows[np.minimum(positions, num - 1)])

        sharding = NamedSharding(mesh, PartitionSpec(axis))
        return jax.make_array_from_callback(
            (total, *rows.shape[1:]), sharding, of_device
        )

    if isinstance(examples, Streamed):
        own = Streamed(examples.source, shared_out(np.asarray(examples.ids)))
    else:
        own = shared_out(examples)
    return Sharded(own, None, num, axis)


def on_all_devices(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`jax.jit(fn)`, run by every device on the examples it has and on all else whole.

    >>> mesh = device_mesh()
    >>> examples = shard(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), mesh)
    >>> on_all_devices(lambda examples, at: examples[at], mesh)(examples, jnp.array([4,
    1])) Array([[[[4]]],
    <BLANKLINE>
    <BLANKLINE>
           [[[1]]]], dtype=uint8)

    Args:
        fn: of pytrees of arrays, equal in all processes, and of `Sharded` examples; it
            returns arrays that are equal on all devices.
        mesh: the one by which the examples are sharded.

    Returns:
        A function of the same arguments, to be called by all processes.
    """
    (axis,) = mesh.axis_names

    def specs(argument: Any) -> Any:
        if isinstance(argument, Sharded):
            return jax.tree.map(lambda _: PartitionSpec(axis), argument)
        return PartitionSpec()

    @jax.jit
    def call(*args: Any) -> Any:
        return jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=jax.tree.map(
                specs, args, is_leaf=lambda x: isinstance(x, Sharded)
            ),
            out_specs=PartitionSpec(),
            check_vma=False,
        )(*args)

    return call
