"""The practical Fisher kernel: block-wise Pearson correlation of descriptors."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import UserError


def standardized(block: jax.Array) -> jax.Array:
    """A block centred by its own mean and divided by its own standard deviation.

    The inner product of two such blocks of length n is their Pearson correlation
    times n - 1. A constant block becomes zero: it resembles nothing.

    Args:
        block: Shape [n], n at least 2.

    Returns:
        Shape [n], in float32; in float64 where JAX has 64 bits.
    """
    if block.size < 2:
        raise ValueError("a correlation needs blocks of 2 or more values, got 1")
    block = block.astype(jnp.result_type(float))
    return (block - block.mean()) / (block.std(ddof=1) + 1e-10)


def pearson_features(*descriptors: dict[str, jax.Array]) -> jax.Array:
    """The embedding of one example whose inner products are the kernel R.

        <e, e'> = sum_l pcc(z_l, z'_l) (n_l - 1)                          for (z)
        <e, e'> = sum_l (pcc(z_l, z'_l) + pcc(g_l, g'_l)) (n_l - 1)       for (z, g)

    Source: Gudovskiy et al. 2020, Sec. 4.2 (multi-scale aggregation).

    Args:
        *descriptors: pytrees of blocks, such as z and g. Shapes [n_l].

    Returns:
        Shape [sum of n_l over all blocks].
    """
    blocks = jax.tree.leaves(descriptors)
    return jnp.concatenate([standardized(block) for block in blocks])


def similarity(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """R between all rows of two embeddings, at the highest matrix precision.

    Args:
        queries: Shape [..., L].
        keys: Shape [M, L].

    Returns:
        Shape [..., M].
    """
    return jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST)


class Kernel(NamedTuple):
    """How two examples are compared by their descriptors z and g.

    Attributes:
        embed: `embed(z, g) -> embedding [L]`, from dicts of blocks by tap.
        similarity: `similarity(queries [..., L], keys [M, L]) -> [..., M]`.
    """

    embed: Callable[[dict[str, jax.Array], dict[str, jax.Array]], jax.Array]
    similarity: Callable[[jax.Array, jax.Array], jax.Array]


multi_scale = Kernel(pearson_features, similarity)
"""R_{z,g}: the sum of the correlations of z and of g, over all taps.

Source: Gudovskiy et al. 2020, Sec. 4.2."""


@functools.cache
def last_layer(inputs: str, outputs: str, num_outputs: int) -> Kernel:
    """The cosine of the Fisher vectors of a dense layer's weights and bias, exact.

    Such a Fisher vector is the outer product of the layer's input (z, 1) and the
    gradient g by its output. So the cosine of two is a product of two cosines, and the
    outer products are never made:

        cos(u, u') = cos((z, 1), (z', 1)) cos(g, g')

    For the last layer's logits, g = e_s - p needs no more than the probabilities p.

    >>> kernel = last_layer("z", "logits", 2)
    >>> e = kernel.embed({"z": jnp.ones(3)}, {"logits": jnp.array([0.5, -0.5])})
    >>> kernel.similarity(e, jnp.stack([e, -e])).round(4).tolist()
    [1.0, 1.0]

    Args:
        inputs: the tap of the layer's input.
        outputs: the tap of its output.
        num_outputs: length n of the output.
    """

    def embed(z: dict[str, jax.Array], g: dict[str, jax.Array]) -> jax.Array:
        a = jnp.append(z[inputs].astype(jnp.result_type(float)), 1)
        return jnp.concatenate([_unit(a), _unit(g[outputs])])

    def product(queries: jax.Array, keys: jax.Array) -> jax.Array:
        split = keys.shape[-1] - num_outputs
        of_inputs = similarity(queries[..., :split], keys[..., :split])
        return of_inputs * similarity(queries[..., split:], keys[..., split:])

    return Kernel(embed, product)


def _unit(block: jax.Array) -> jax.Array:
    """Of length 1; a block of zeros stays."""
    return block / (jnp.linalg.norm(block) + 1e-10)


def check_finite(name: str, rows: jax.Array) -> None:
    """Raises where an embedding is not finite. Not under `jit`: it reads the values.

    Args:
        name: what the rows are, for the message.
        rows: one of each example. Shape [N, ...].

    Raises:
        UserError: naming the first of these examples, and how many there are.
    """
    finite = jnp.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    if not finite.all():
        bad = jnp.flatnonzero(~finite)
        raise UserError(
            f"{name} of {len(bad)} of {len(rows)} examples are NaN or infinite, first "
            f"of examples {bad[:5].tolist()}: look at their values and at the model's."
        )
