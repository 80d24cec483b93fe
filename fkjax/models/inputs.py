"""Examples of any kind: one array, or a pytree of arrays such as tokens and a mask.

All of fkjax carries examples as images, arrays of shape [N, H, W, channels]. An array
of another shape is reshaped to that form; the arrays of a pytree become the bytes of
one array of int8, [N, 1, 1, bytes]. A module gets them back in their own form.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import UserError


class Inputs(NamedTuple):
    """The form of the examples that a module takes.

    Attributes:
        arrays: shape and dtype of each array of one example.
        treedef: tree structure of the arrays; that of a leaf for a single array.
    """

    arrays: tuple[jax.ShapeDtypeStruct, ...]
    treedef: Any

    @property
    def is_array(self) -> bool:
        """Whether an example is a single array, not a pytree of arrays."""
        return jax.tree_util.treedef_is_leaf(self.treedef)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an example that is carried as an image."""
        if self.is_array:
            shape = self.arrays[0].shape
            return as_images(np.zeros((0, *shape), bool)).shape[1:]
        return 1, 1, sum(map(_num_bytes, self.arrays))

    def structs(self, num: int) -> Any:
        """Returns the shapes and dtypes of a batch of `num` examples."""
        batch = [jax.ShapeDtypeStruct((num, *x.shape), x.dtype) for x in self.arrays]
        return self.treedef.unflatten(batch)

    def in_shape(self, images: Any) -> Any:
        """Returns a batch of examples in their own form, with any dtypes.

        Args:
            images: examples as images, see `as_images`, or in their own form.

        Raises:
            UserError: if they cannot be such examples.
        """
        if hasattr(images, "shape") and not self.is_array:
            return self.treedef.unflatten(self._from_bytes(images))
        if jax.tree.structure(images) != self.treedef:
            raise UserError(
                f"examples must be {self}, as was the example that was given, got "
                f"{jax.tree.structure(images)}"
            )
        arrays = [
            jnp.asarray(x).reshape(len(x), *like.shape)
            for x, like in zip(jax.tree.leaves(images), self.arrays, strict=True)
        ]
        return self.treedef.unflatten(arrays)

    def batch(self, images: Any) -> Any:
        """Returns a batch as `in_shape` does, in the form that the module takes.

        Integers are converted to floats where the example has floats, and floats to
        integers where it has integers.
        """
        arrays = jax.tree.leaves(self.in_shape(images))
        return self.treedef.unflatten(map(_as_given, arrays, self.arrays))

    def _from_bytes(self, images: Any) -> list[jax.Array]:
        if images.dtype != jnp.int8 or images.shape[1:] != self.image_shape:
            raise UserError(
                f"examples of {self} are carried as bytes of shape "
                f"{self.image_shape}, got {images.dtype} of shape {images.shape[1:]}: "
                "convert them by fkjax.models.as_images"
            )
        rows = jnp.asarray(images).reshape(len(images), -1)
        ends = np.cumsum([*map(_num_bytes, self.arrays)])[:-1]
        parts = jnp.split(rows, ends, axis=1)
        return [_of_bytes(part, x) for part, x in zip(parts, self.arrays, strict=True)]

    def __str__(self) -> str:
        """Returns the dtypes and shapes of the arrays, such as float32[28,28,1]."""
        named = [f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in self.arrays]
        return str(self.treedef.unflatten(named)).replace("'", "")


def inputs_like(example: Any) -> Inputs:
    """Returns the form of a batch of examples.

    >>> tokens = {"tokens": np.zeros((1, 12), np.int32), "mask": np.ones((1, 12), bool)}
    >>> print(inputs_like(tokens))
    {mask: bool[12], tokens: int32[12]}

    Args:
        example: one batch of one or more examples: an array, a pytree of arrays, or
            objects with their shapes and dtypes.

    Raises:
        UserError: if it is not such a batch.
    """
    leaves, treedef = jax.tree.flatten(example)
    shapes: list[Any] = [getattr(x, "shape", None) for x in leaves]
    is_one = jax.tree_util.treedef_is_leaf(treedef)
    least = 2 if is_one else 1
    if not leaves or any(
        shape is None or len(shape) < least or not hasattr(x, "dtype")
        for shape, x in zip(shapes, leaves, strict=True)
    ):
        got = getattr(example, "shape", type(example).__name__)
        raise UserError(
            "example must be a batch of examples, such as jnp.zeros((1, 28, 28, 1)) or "
            f"a dict of such arrays, got {got}"
        )
    if len({s[0] for s in shapes}) > 1:
        raise UserError(
            "all arrays of the example must have the same number of rows, got shapes "
            f"{', '.join(map(str, shapes))}"
        )
    arrays = [
        jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype))
        for x in leaves
    ]
    return Inputs(tuple(arrays), treedef)


def as_images(examples: Any) -> Any:
    """Reshapes examples of any shape to the four axes of images.

    [N, d] becomes [N, 1, 1, d], and [N, H, W] becomes [N, H, W, 1]. Arrays of four axes
    do not change. If there are more axes, all but the first are flattened. The arrays
    of a pytree become their bytes, [N, 1, 1, bytes] int8.

    >>> as_images(np.zeros((5, 7))).shape
    (5, 1, 1, 7)
    >>> tokens = {"tokens": np.zeros((5, 12), np.int32), "mask": np.ones((5, 12), bool)}
    >>> as_images(tokens).shape
    (5, 1, 1, 60)

    Args:
        examples: the examples, an array or a pytree of arrays. Shape [N, ...].

    Returns:
        The examples. Shape [N, H, W, channels].
    """
    if not hasattr(examples, "shape"):
        rows = [_bytes(np.asarray(x)) for x in jax.tree.leaves(examples)]
        return np.concatenate(rows, axis=1)[:, None, None]
    shape = examples.shape[1:]
    if len(shape) == 3:
        return examples
    carried = (*shape, 1) if len(shape) == 2 else (1, 1, math.prod(shape))
    return examples.reshape(len(examples), *carried)


def _as_given(batch: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in (batch, like)]
    return batch if is_float[0] == is_float[1] else batch.astype(like.dtype)


def _num_bytes(like: jax.ShapeDtypeStruct) -> int:
    return math.prod(like.shape) * like.dtype.itemsize


def _bytes(rows: np.ndarray) -> np.ndarray:
    """Returns the bytes of each row, in the dtype that JAX gives it. Shape [N, B]."""
    rows = rows.astype(jax.dtypes.canonicalize_dtype(rows.dtype))
    size = math.prod(rows.shape[1:])
    return np.ascontiguousarray(rows.reshape(len(rows), size)).view(np.int8)


def _of_bytes(rows: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns the array whose rows have these bytes; the inverse of `_bytes`."""
    size = like.dtype.itemsize
    rows = rows.reshape(len(rows), *like.shape, *([size] if size > 1 else []))
    if like.dtype == bool:
        return rows != 0
    return jax.lax.bitcast_convert_type(rows, like.dtype)
