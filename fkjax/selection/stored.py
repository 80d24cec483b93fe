"""Examples as users store them: one array, or a pytree of arrays such as a dict."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples, UserError
from fkjax.data.column_files import as_table
from fkjax.data.column_types import is_number
from fkjax.data.columns import Column, Table, Tell, images_of, take_rows
from fkjax.models import as_images


class Stored(NamedTuple):
    """The examples of a pool or a validation set, as they are stored.

    Attributes:
        columns: the arrays, one for each leaf of an example.
        treedef: tree structure of an example; that of a leaf for a single array.
    """

    columns: tuple[Column, ...]
    treedef: Any

    @property
    def is_array(self) -> bool:
        """Whether an example is a single array, not a pytree of arrays."""
        return jax.tree_util.treedef_is_leaf(self.treedef)

    @property
    def form(self) -> Any:
        """The shapes of the arrays of one example, as a pytree."""
        shapes = [tuple(column.shape[1:]) for column in self.columns]
        return self.treedef.unflatten(shapes)

    def rows(self, ids: np.ndarray, dtypes: Iterable[np.dtype]) -> Any:
        """Returns some examples in their own form, with given dtypes."""
        taken = [take_rows(column, ids) for column in self.columns]
        return self.treedef.unflatten(map(_converted, taken, dtypes))

    def images(
        self,
        dtypes: Iterable[np.dtype],
        tell: Tell | None = None,
        *,
        is_small: bool = False,
    ) -> Examples:
        """Returns the examples as images, in memory or streamed (`images_of`)."""
        dtypes = tuple(dtypes)

        def read(ids: np.ndarray) -> np.ndarray:
            return as_images(self.rows(ids, dtypes))

        first, num = read(np.arange(1)), len(self.columns[0])
        return images_of(
            read, num, first.shape[1:], first.dtype, tell=tell, is_small=is_small
        )


def stored(given: Any, needed: Iterable[str], what: str) -> tuple[Table, Stored]:
    """Checks the arrays of a pool or a validation set, whose images may be a pytree.

    Args:
        given: mapping of arrays, or paths of files, as in
            `fkjax.data.column_files.as_table`. In a mapping, the images may be an array
            or a mapping or named tuple of arrays, also nested.
        needed: names of the arrays that are required, of which images is one.
        what: name of the set in messages, such as "pool".

    Returns:
        The other arrays, and the images.

    Raises:
        UserError: if something is missing, or the images are not numbers.
    """
    needed = tuple(needed)
    images = given.get("images") if isinstance(given, dict) else None
    if isinstance(images, Mapping) or hasattr(images, "_fields"):
        leaves, treedef = jax.tree.flatten(
            _plain(images), is_leaf=lambda x: isinstance(x, list)
        )
        if not leaves:
            raise UserError(f"images of the {what} must be arrays, got none")
        tables = [
            as_table({**given, "images": leaf}, needed=needed, what=what)
            for leaf in leaves
        ]
    else:
        tables = [as_table(given, needed=needed, what=what)]
        treedef = jax.tree.structure(0)
    columns = tuple(table["images"] for table in tables)
    if len({len(column) for column in columns}) > 1:
        raise UserError(
            f"all arrays of the images of the {what} must have the same length, got "
            f"{', '.join(str(len(column)) for column in columns)}"
        )
    for column in columns:
        least = 2 if len(columns) == 1 else 1
        if len(column.shape) < least or 0 in column.shape:
            raise UserError(
                f"images must have shape [examples, ...] without a 0, got "
                f"{column.shape}"
            )
        if not is_number(column.dtype) and column.dtype != bool:
            raise UserError(f"images must be numbers, got {column.dtype}; convert them")
    return tables[0], Stored(columns, treedef)


def _plain(images: Any) -> Any:
    """Converts mappings of all kinds to dicts, which are pytrees."""
    if isinstance(images, Mapping):
        return {name: _plain(image) for name, image in images.items()}
    return images


def common_dtypes(first: Stored, second: Stored) -> list[np.dtype]:
    """Returns dtypes for both of two sets of examples of the same form.

    Floats become float32. Integers stay integers, of at most 32 bits unless JAX has 64.
    A mask stays bool in a pytree, and is float32 if it is the whole example.
    """

    def common(*columns: Column) -> np.dtype:
        dtypes = [column.dtype for column in columns]
        if all(np.issubdtype(dtype, np.bool_) for dtype in dtypes) and first.is_array:
            return np.dtype(np.float32)
        if any(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
            return np.dtype(np.float32)
        return np.dtype(jax.dtypes.canonicalize_dtype(np.result_type(*dtypes)))

    return list(map(common, first.columns, second.columns))


def _converted(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    converted = rows.astype(dtype)
    is_integer = np.issubdtype(rows.dtype, np.integer)
    is_kept = not np.issubdtype(dtype, np.integer) or (converted == rows).all()
    if is_integer and not is_kept:
        raise UserError(
            f"images have integers beyond the range of {dtype}, such as "
            f"{rows[converted != rows][0]}: number them anew, or set jax_enable_x64"
        )
    return converted
