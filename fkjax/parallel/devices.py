"""Computation on all devices of all processes, each with a share of the examples.

All devices run the same program, each with all of the small arrays and its share of the
examples (`on_all_devices`). The communication between devices is written explicitly in
the code that reads examples (`fkjax.parallel.examples.Sharded`,
`fkjax.parallel.mapping`) or searches them (`fkjax.acquisition.neighbors`); the compiler
does not shard anything. Other work, such as training, is repeated on all devices with
the same inputs. The results are therefore bitwise those of one device.
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
"""Shares of small and large sets are multiples of these numbers, so that they are two
or more whole batches of most batch sizes: XLA unrolls a loop of one step."""


def device_mesh() -> Mesh:
    """Creates a mesh of all devices along one axis."""
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def map_shares(
    fn: Callable[[Any, Any, jax.Array], Any], shared: Any, examples: Any, *, mesh: Mesh
) -> Any:
    """Computes `fn(shared, examples, 0)` with a share of the examples on each device.

    The rows that `fn` returns must not depend on other examples, as for
    `fkjax.sketch.embedding.embed`. Gradients within `fn` are of the share's examples;
    they are not summed over devices.

    >>> double = lambda scale, xs, start: scale * xs
    >>> map_shares(double, 2.0, jnp.arange(3.0), mesh=device_mesh())
    Array([0., 2., 4.], dtype=float32)

    Args:
        fn: function `fn(shared, share, start)` that returns arrays with one row for
            each example, where `start` is the position of the share's first example.
        shared: pytree that each device has as a whole, such as variables.
        examples: pytree with a leading axis N on each leaf.
        mesh: mesh of one axis, such as `device_mesh()`.

    Returns:
        The arrays that `fn` returns, with a leading axis N. If N is not a multiple of
        the number of devices, the last share is padded with copies of the last example,
        and their rows are dropped.
    """
    num = len(jax.tree.leaves(examples)[0])
    share = -(-num // mesh.size)
    (axis,) = mesh.axis_names

    def fill_up(x: jax.Array) -> jax.Array:
        return x[jnp.minimum(jnp.arange(share * mesh.size), num - 1)]

    def local(shared: Any, examples: Any) -> Any:
        return fn(shared, examples, jax.lax.axis_index(axis) * share)

    # With `check_vma`, gradients with respect to values that are the same on all
    # devices, such as the parameters, would be summed over the devices.
    rows = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(axis)),
        out_specs=PartitionSpec(axis),
        check_vma=False,
    )(shared, examples if num % mesh.size == 0 else jax.tree.map(fill_up, examples))
    return jax.tree.map(lambda x: x[:num], rows)


def shard(examples: Examples, mesh: Mesh) -> Sharded:
    """Distributes examples over the devices; a process keeps those of its own devices.

    Args:
        examples: examples in the memory of this process, or streamed ones. Shape
            [N, H, W, channels].
        mesh: mesh of one axis, such as `device_mesh()`.

    Returns:
        The examples, for programs from `on_all_devices`.
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
    """Compiles a function that all devices run, each with its share of the examples.

    The other arguments are the same on all devices.

    >>> mesh = device_mesh()
    >>> examples = shard(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), mesh)
    >>> chosen = on_all_devices(lambda examples, at: examples[at], mesh)
    >>> chosen(examples, jnp.array([4, 1])).ravel()
    Array([4, 1], dtype=uint8)

    Args:
        fn: function of `Sharded` examples and of pytrees of arrays that are equal in
            all processes; it must return arrays that are equal on all devices.
        mesh: mesh over which the examples are sharded.

    Returns:
        A function of the same arguments, which all processes must call.
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
