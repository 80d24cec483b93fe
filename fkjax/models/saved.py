"""Reading of variables that another program saved with Orbax."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict, unfreeze
from jax.core import Tracer

from fkjax.base import UserError, path_of
from fkjax.files.checkpoint import read_tree


def restore_variables(path: str | Path, like: Any = None) -> Any:
    """Reads an Orbax checkpoint of a `StandardCheckpointer` or `PyTreeCheckpointer`.

    The checkpoint holds the variables of a Linen module, or an NNX state, itself or as
    a pure dict. No code is loaded from the checkpoint, and no pickle.

    Args:
        path: the folder that was passed to `save`.
        like: a template of the variables: an NNX module or its state, or the variables
            of a Linen module. Shapes are sufficient, as returned by `nnx.eval_shape`
            and `jax.eval_shape`. Of an NNX state, only parameters and batch statistics
            are read. Of the variables of a Linen module, only the collections in the
            template are read; others in the checkpoint, such as the state of an
            optimizer, are ignored. Of a checkpoint with more in it, such as a
            TrainState, the one part that fits is read. With a Linen module, which does
            not hold variables, these are the collections beside `params`; with None,
            the complete checkpoint is returned.

    Returns:
        Nested dicts of NumPy arrays, with the keys of `like`, which can be passed to
        `fkjax.models.from_module` as `variables`.

    Raises:
        UserError: if there is no such checkpoint, or its leaves differ from those of
            `like`. The message names the first difference.
    """
    found = read_tree(Path(path))
    if like is None:
        return _plain(found)
    source = f"the checkpoint {path}"
    if isinstance(like, flax.linen.Module):
        return _variables_in(_plain(found), source)
    if isinstance(like, nnx.Module | nnx.State):
        return _fitted_part(found, lambda part: fitted_state(part, like, source=source))
    if not isinstance(like, dict | FrozenDict):
        raise UserError(
            "like must be an NNX module, its state, or the dict of variables of a "
            f"Linen module, got {type(like).__name__}"
        )
    template = unfreeze(like)

    def fit_part(part: Any) -> Any:
        if "params" in template and isinstance(part, dict):
            part = {name: part[name] for name in part if name in template}
        return fitted(part, template, source=source)

    return _fitted_part(found, fit_part)


def require_no_nan(variables: Any) -> None:
    """Raises an error if a variable of a network is NaN.

    Args:
        variables: pytree of arrays.

    Raises:
        UserError: if a leaf contains NaN; the message names up to three leaves.
    """
    found = [
        path_of(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
        if _has_nan(leaf)
    ]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"the variables of the network contain NaN, in {', '.join(found[:3])}"
            f"{more}: give those of a training that did not diverge"
        )


def _has_nan(leaf: Any) -> bool:
    if isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array | np.ndarray):
        return False
    return jnp.issubdtype(leaf.dtype, jnp.inexact) and bool(jnp.isnan(leaf).any())


def _parts(tree: Any, depth: int = 2) -> list[tuple[str, dict[str, Any]]]:
    """Lists the dicts in a checkpoint to some depth, with their paths."""
    found = []
    for name, child in tree.items() if isinstance(tree, dict) else ():
        if isinstance(child, dict):
            found.append((str(name), child))
            if depth > 1:
                inside = _parts(child, depth - 1)
                found += [(f"{name}/{path}", part) for path, part in inside]
    return found


def _contents(tree: Any) -> str:
    """Describes what a checkpoint holds, for messages."""
    if not isinstance(tree, dict):
        return "a single array"
    names = [str(name) for name in tree]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _fitted_part(found: Any, fit: Callable[[Any], Any]) -> Any:
    """Fits a whole checkpoint, or else the one part of it that fits.

    Programs save the variables alone, or beside an optimizer and a step.
    """
    try:
        return fit(found)
    except UserError as error:
        problem = str(error)
    fits = []
    for path, part in _parts(found):
        try:
            fits.append((path, fit(part)))
        except UserError:
            continue
    if len(fits) == 1:
        return fits[0][1]
    which = f"; {', '.join(path for path, _ in fits)} would all fit" if fits else ""
    raise UserError(f"{problem} (it holds {_contents(found)}{which})")


def _variables_in(found: Any, source: str) -> dict[str, Any]:
    """Returns the collections of a Linen module in a checkpoint, such as a TrainState.

    Args:
        found: contents of the checkpoint.
        source: description of `found`, for messages.

    Raises:
        UserError: if there is not exactly one dict with `params` in it.
    """
    holders = [("", found)] if isinstance(found, dict) and "params" in found else []
    holders = holders or [(p, part) for p, part in _parts(found) if "params" in part]
    if len(holders) != 1:
        several = ", ".join(path for path, _ in holders)
        raise UserError(
            f"{source} must hold the variables of a Linen module, with params, but it "
            f"holds {_contents(found)}"
            + (f", with params in each of {several}" if several else "")
            + ": save the variables alone"
        )
    _, variables = holders[0]
    inner = variables["params"]
    if isinstance(inner, dict) and isinstance(inner.get("params"), dict):
        return _variables_in(inner, source)  # a TrainState made of all variables
    return {
        name: value
        for name, value in variables.items()
        if isinstance(value, dict) and name != "opt_state"
    }


def fitted_state(found: Any, like: nnx.Module | nnx.State, *, source: str) -> Any:
    """Calls `fitted` for the parameters and batch statistics of an NNX module or state.

    Args:
        found: an NNX state, or nested dicts of arrays.
        like: the module or state that defines the structure.
        source: description of `found`, for messages.

    Returns:
        The arrays of `found` as a pure dict.

    Raises:
        UserError: see `fitted`.
    """
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
    """Arranges arrays in the structure of a template, by their paths.

    Args:
        found: nested dicts of arrays. As Orbax and NNX save them, the keys of lists may
            be strings, and a leaf may be stored as "value" below its path.
        like: nested dicts of arrays or shapes.
        source: description of `found`, for messages.
        ignored: further paths that `found` may contain.

    Returns:
        The arrays of `found` in the structure of `like`.

    Raises:
        UserError: if a leaf is missing, unexpected or of another shape.
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
                f"{source} has no {name}, which has shape {tuple(leaf.shape)} in the "
                "module: give the variables of the same module"
            )
        shapes = np.shape(leaves[name]), tuple(leaf.shape)
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name} has shape {shapes[0]} in {source} and {shapes[1]} in the "
                "module: give the variables of the same module"
            )
    for name in leaves:
        if name not in known:
            raise UserError(
                f"{source} has {name}, which the module does not have: give the "
                "variables of the same module"
            )
    return treedef.unflatten([leaves[name] for name in wanted])


def _plain(tree: Any) -> Any:
    """Removes the key "value" that Orbax adds below each variable of an NNX state."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    is_state = all(path_of(path).endswith("/value") for path, _ in paths)

    def lifted(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if set(node) == {"value"}:
            return node["value"]
        return {name: lifted(child) for name, child in node.items()}

    return lifted(tree) if is_state and paths else tree
