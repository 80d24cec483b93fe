"""A function of examples over a mesh of devices: each takes a share of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, PartitionSpec

_AXIS = "examples"


def device_mesh() -> Mesh:
    """All devices, in a row."""
    return jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(AxisType.Auto,))


def map_shares(
    fn: Callable[[Any, Any, jax.Array], Any], shared: Any, examples: Any, *, mesh: Mesh
) -> Any:
    """`fn(shared, examples, 0)`, computed by every device on its share of the examples.

    For an fn that treats examples one by one, such as `fkjax.embedding.embed`; its
    gradients are of its own examples, not summed over devices.

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
