"""Types of columns: text, half precision, Python objects and tensors."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fkjax.base import UserError

OF_TEXT = ("ids", "labels")
"""The names of the columns that may be text."""

_SCALARS = (np.number, np.bool_, np.str_, np.bytes_)


def is_number(dtype: np.dtype) -> bool:
    """Returns whether elements are integers or floats, such as bfloat16."""
    return jnp.issubdtype(dtype, np.floating) or jnp.issubdtype(dtype, np.integer)


def with_float32(rows: np.ndarray) -> np.ndarray:
    """Converts floats that NumPy lacks, such as bfloat16, to float32."""
    is_known = np.issubdtype(rows.dtype, np.floating)
    is_float = jnp.issubdtype(rows.dtype, np.floating)
    return rows.astype(np.float32) if is_float and not is_known else rows


def as_array(given: Any) -> np.ndarray:
    """Converts an array of another library to a NumPy array.

    Tensors of PyTorch may have a gradient, be on a GPU, or be bfloat16, which becomes
    float32.
    """
    if hasattr(given, "detach") and hasattr(given, "cpu"):
        if getattr(given, "is_meta", False):
            raise UserError(
                "a tensor on the device meta has no numbers; give it on another device"
            )
        if str(getattr(given, "layout", "torch.strided")) != "torch.strided":
            given = given.to_dense()  # sparse
        given = given.detach().cpu()
        try:
            return np.asarray(given)
        except TypeError:  # a type of element that NumPy lacks
            return np.asarray(given.float())
    if isinstance(given, (list, tuple)) and any(hasattr(x, "detach") for x in given):
        return np.stack([as_array(row) for row in given])
    return np.asarray(given)


def cure(name: str) -> str:
    """Returns the code that converts Python objects in a column."""
    return f"{name}.astype(str)" if name in OF_TEXT else f"{name}.astype(np.float32)"


def plain(array: np.ndarray, name: str, what: str) -> np.ndarray:
    """Converts bytes to text, and Python objects to text, numbers or rows of them.

    Ids and labels can be objects of another type that can be ordered, such as paths;
    they are kept.

    Args:
        array: column of any type. Shape [N, ...].
        name: name of the column.
        what: name of the table in messages, such as "pool".

    Raises:
        UserError: if bytes are not text, or objects are neither text nor numbers.
    """
    if array.dtype.kind == "S" and name in OF_TEXT:
        return _decoded(array.ravel().tolist(), name, what).reshape(array.shape)
    if array.dtype.kind == "T":  # text of variable length
        array = array.astype(object)
    if not array.dtype.hasobject:
        return array
    if name not in OF_TEXT and array.ndim == 1 and any(map(_is_row, array)):
        empty = [i for i, row in enumerate(array) if not _is_row(row)]
        if empty:
            shown = ", ".join(map(str, empty[:20])) + ", ..." * (len(empty) > 20)
            raise UserError(
                f"{name} of the {what} has no list of numbers in row {shown}; fill it"
            )
        return plain(_stacked(array, name, what), name, what)
    values = [v.item() if isinstance(v, _SCALARS) else v for v in array.flat]
    kinds = {type(value) for value in values}
    if name in OF_TEXT:
        empty = [i for i, value in enumerate(values) if _is_missing(value)]
        if empty:
            raise UserError(
                f"{name} of the {what} has no value in row {empty[0]} "
                f"({values[empty[0]]}); fill it"
            )
        if kinds == {bytes}:
            return _decoded(values, name, what).reshape(array.shape)
        if kinds == {str}:
            return np.array(values).reshape(array.shape)
    is_of_numbers = kinds <= {bool, int, float}
    if is_of_numbers and (name not in OF_TEXT or len(kinds) == 1):
        return np.array(values).reshape(array.shape)
    can_be_kept = name in OF_TEXT and (
        is_of_numbers or (len(kinds) == 1 and _can_be_ordered(values[0]))
    )
    if not can_be_kept:
        found = " and ".join(sorted(kind.__name__ for kind in kinds))
        fix = f"np.stack({name})" if name not in OF_TEXT else cure(name)
        raise UserError(
            f"{name} of the {what} are Python objects of type {found}; give {fix}"
        )
    return array


def as_text(value: Any) -> str:
    """Converts an id or the name of a class to text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _decoded(values: list[Any], name: str, what: str) -> np.ndarray:
    try:
        return np.array([value.decode() for value in values], str)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} of the {what} must be UTF-8 text, got {error.object!r}; give "
            f"np.char.decode({name}, ...) with their encoding"
        ) from error


def _is_row(value: Any) -> bool:
    is_array = hasattr(value, "__array__") and getattr(value, "ndim", 1) > 0
    return isinstance(value, (list, tuple)) or is_array


def _stacked(array: np.ndarray, name: str, what: str) -> np.ndarray:
    """Stacks the rows of a column of lists or arrays. Shape [N, ...]."""
    rows = [as_array(row) for row in array]
    others = [i for i, row in enumerate(rows) if row.shape != rows[0].shape]
    if others:
        raise UserError(
            f"{name} of the {what} must have rows of the same shape, got "
            f"{rows[0].shape} in row 0 and {rows[others[0]].shape} in row {others[0]}"
        )
    return np.stack(rows)


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _can_be_ordered(value: Any) -> bool:
    try:
        hash(value)
        sorted([value, value])
    except TypeError:
        return False
    return True
