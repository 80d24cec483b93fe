"""Variables that another program saved with Orbax, and whether they are a module's."""

from pathlib import Path
from typing import Any

import flax.linen
import jax
import numpy as np
from flax import nnx
from flax.core import FrozenDict, unfreeze

from fkjax.base import UserError, path_of
from fkjax.files.checkpoint import read_tree


def restore_variables(path: str | Path, like: Any = None) -> Any:
    """Reads a checkpoint of Orbax: `StandardCheckpointer`'s or `PyTreeCheckpointer`'s.

    It may hold the variables of a Linen module, or an NNX state, as it is or as a pure
    dict. Nothing that the folder holds is run: no pickle.

    Args:
        path: the folder that was given to `save`.
        like: what the variables belong to: an NNX module or its state, or the
            variables of a Linen module; shapes are enough, as `nnx.eval_shape` and
            `jax.eval_shape` give them. An NNX state is looked at for parameters and
            batch statistics only. Beside "params" and other collections named here,
            what the checkpoint has at its top, such as an optimiser's state, is left
            out. None, or a Linen module, which has no variables of its own, takes the
            checkpoint as it is.

    Returns:
        Nested dicts of NumPy arrays, with the keys of `like`: what
        `fkjax.models.from_module` takes as `variables`.

    Raises:
        UserError: if there is no such checkpoint, or its leaves are not those of
            `like`; the first that differs is named.
    """
    found = read_tree(Path(path))
    if like is None or isinstance(like, flax.linen.Module):
        return _plain(found)
    source = f"the checkpoint {path}"
    if isinstance(like, nnx.Module | nnx.State):
        return fitted_state(found, like, source=source)
    if not isinstance(like, dict | FrozenDict):
        raise UserError(
            "`like` must be an NNX module, its state, or the dict of a Linen module's "
            f"variables, got {type(like).__name__}"
        )
    like = unfreeze(like)
    if "params" in like and isinstance(found, dict):
        found = {name: found[name] for name in found if name in like}
    return fitted(found, like, source=source)


def fitted_state(found: Any, like: nnx.Module | nnx.State, *, source: str) -> Any:
    """`fitted` to the parameters and the batch statistics of an NNX module or state."""
    state = nnx.state(like) if isinstance(like, nnx.Module) else like
    *wanted, others = nnx.split_state(state, nnx.Param, nnx.BatchStat, ...)
    found = nnx.to_pure_dict(found) if isinstance(found, nnx.State) else found
    constants = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(others)}
    return fitted(
        found,
        nnx.to_pure_dict(nnx.merge_state(*wanted)),
        source=source,
        ignored=constants,
    )


def fitted(
    found: Any, like: Any, *, source: str, ignored: set[str] | frozenset = frozenset()
) -> Any:
    """Arrays by their paths, in the tree to which they belong.

    Args:
        found: nested dicts of arrays. The keys of lists may have become text, and a
            leaf may lie at "value" below its path, as Orbax and NNX leave them.
        like: nested dicts of what has a shape.
        source: what `found` is, for the message.
        ignored: paths that `found` may have besides.

    Returns:
        The arrays of `found` in the structure of `like`.

    Raises:
        UserError: if a leaf is missing, is too many, or has another shape.
    """
    keyed, treedef = jax.tree_util.tree_flatten_with_path(like)
    wanted = {path_of(path): leaf for path, leaf in keyed}
    known = ignored | set(wanted)
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(found)[0]:
        name = path_of(path)
        leaves[name if name in known else name.removesuffix("/value")] = leaf
    for name, leaf in wanted.items():
        if name not in leaves:
            raise UserError(
                f"{source} has no {name}, which the module has with shape "
                f"{tuple(leaf.shape)}: give that of the same module"
            )
        shapes = np.shape(leaves[name]), tuple(leaf.shape)
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name} has shape {shapes[0]} in {source} and {shapes[1]} in the "
                "module: give that of the same module"
            )
    for name in leaves:
        if name not in known:
            raise UserError(
                f"{source} has {name}, which the module has not: give that of the "
                "same module"
            )
    return treedef.unflatten([leaves[name] for name in wanted])


def _plain(tree: Any) -> Any:
    """Without the "value" that Orbax puts below each variable of an NNX state."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    is_state = all(path_of(path).endswith("/value") for path, _ in paths)

    def lifted(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if set(node) == {"value"}:
            return node["value"]
        return {name: lifted(child) for name, child in node.items()}

    return lifted(tree) if is_state and paths else tree
