"""The practical Fisher kernel: block-wise Pearson correlation of descriptors."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fkjax.base import UserError, widened
from fkjax.fisher.factors import matmul


def standardized(block: jax.Array) -> jax.Array:
    """Subtracts the mean of a block and divides by its standard deviation.

    The inner product of two such blocks of length n is their Pearson correlation
    times n - 1. A constant block becomes zero.

    Args:
        block: values of the block. Shape [n], n at least 2.

    Returns:
        The standardized block, in float32, or float64 if JAX's 64-bit types are
        enabled. Shape [n].

    Raises:
        UserError: if the block has fewer than 2 values.
    """
    if block.size < 2:
        raise UserError(
            f"a correlation needs blocks of 2 or more values, got {block.size}: use "
            "features, or taps, of 2 or more values, or a strategy of uncertainty"
        )
    block = block.astype(jnp.result_type(float))
    deviation = block.std(ddof=1)
    is_constant = (block == block[0]).all()  # the mean of such values may be rounded
    center = jnp.where(is_constant, block[0], block.mean())
    usual = (block - center) / (deviation + 1e-10)
    small = _small(block)
    of_small = (small - small.mean()) / (small.std(ddof=1) + 1e-30)
    of_small = jnp.where(is_constant & jnp.isfinite(center), 0, of_small)
    return jnp.where(jnp.isfinite(deviation), usual, of_small)


def _small(block: jax.Array) -> jax.Array:
    """Scales a block down, by a power of 2, so that its squares do not overflow.

    Neither correlations nor cosines depend on the scale.
    """
    return block * 2.0 ** -(jnp.finfo(block.dtype).maxexp * 5 // 8)


def pearson_features(*descriptors: dict[str, jax.Array]) -> jax.Array:
    """Computes the embedding of one example whose inner products are the kernel R.

        <e, e'> = sum_l pcc(z_l, z'_l) (n_l - 1)                          for (z)
        <e, e'> = sum_l (pcc(z_l, z'_l) + pcc(g_l, g'_l)) (n_l - 1)       for (z, g)

    Source: Gudovskiy et al. 2020, Sec. 4.2 (multi-scale aggregation).

    Args:
        *descriptors: pytrees of blocks, such as z and g. Shapes [n_l].

    Returns:
        The embedding. Shape [L], where L is the sum of n_l over all blocks.
    """
    blocks = jax.tree.leaves(descriptors)
    return jnp.concatenate([standardized(block) for block in blocks])


def similarity(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Computes R between all rows of two embeddings, at the highest matrix precision.

    Args:
        queries: first embeddings. Shape [..., L].
        keys: second embeddings. Shape [M, L].

    Returns:
        The inner products, in float32 or wider. Shape [..., M].
    """
    return matmul(queries, keys.T)


class Kernel(NamedTuple):
    """A kernel between examples, as a function of their descriptors z and g.

    Attributes:
        embed: function `embed(z, g) -> embedding [L]` of dicts of blocks by tap.
        similarity: function `similarity(queries [..., L], keys [M, L]) -> [..., M]`
            that computes the kernel of embeddings.
        factors: function `factors(embedding) -> (a, b)` if the kernel of two examples
            is <a, a'> <b, b'>; None if it is the inner product of the embeddings.
    """

    embed: Callable[[dict[str, jax.Array], dict[str, jax.Array]], jax.Array]
    similarity: Callable[[jax.Array, jax.Array], jax.Array]
    factors: Callable[[jax.Array], tuple[jax.Array, jax.Array]] | None = None


multi_scale = Kernel(pearson_features, similarity)
"""The kernel R_{z,g}: the sum of the correlations of z and of g over all taps.

Source: Gudovskiy et al. 2020, Sec. 4.2."""


@functools.cache
def last_layer(inputs: str, outputs: str, num_outputs: int) -> Kernel:
    """Returns the exact cosine kernel of the Fisher vectors of a dense layer.

    The Fisher vector of the layer's weights and bias is the outer product of the input
    (z, 1) and the gradient g with respect to the output. The cosine of two of them is
    a product of two cosines, so that the outer products are never formed:

        cos(u, u') = cos((z, 1), (z', 1)) cos(g, g')

    For the logits of the last layer, g = e_s - p only needs the probabilities p.

    >>> kernel = last_layer("z", "logits", 2)
    >>> e = kernel.embed({"z": jnp.ones(3)}, {"logits": jnp.array([0.5, -0.5])})
    >>> kernel.similarity(e, jnp.stack([e, -e])).round(4).tolist()
    [1.0, 1.0]

    Args:
        inputs: name of the tap of the layer's input.
        outputs: name of the tap of the layer's output.
        num_outputs: length of the output, n.

    Returns:
        The kernel.
    """

    def embed(z: dict[str, jax.Array], g: dict[str, jax.Array]) -> jax.Array:
        a = jnp.append(z[inputs].astype(jnp.result_type(float)), 1)
        return jnp.concatenate([_unit(a), _unit(g[outputs])])

    def factors(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
        split = embeddings.shape[-1] - num_outputs
        return embeddings[..., :split], embeddings[..., split:]

    def product(queries: jax.Array, keys: jax.Array) -> jax.Array:
        (a, b), (of_keys, others) = factors(queries), factors(keys)
        return similarity(a, of_keys) * similarity(b, others)

    return Kernel(embed, product, factors)


def _unit(block: jax.Array) -> jax.Array:
    """Scales a block to length 1; a block of zeros stays zero."""
    block = widened(block)
    length, small = jnp.linalg.norm(block), _small(block)
    usual = block / (length + 1e-10)
    return jnp.where(
        jnp.isfinite(length), usual, small / (jnp.linalg.norm(small) + 1e-30)
    )


def check_finite(name: str, rows: jax.Array) -> None:
    """Checks that all embeddings are finite.

    It reads the values, so it cannot be called under `jit`.

    Args:
        name: name of the rows, for the message.
        rows: one row for each example. Shape [N, ...].

    Raises:
        UserError: if any row is not finite; the message has the number of such
            examples and the first five of them.
    """
    finite = jnp.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    if not finite.all():
        bad = jnp.flatnonzero(~finite)
        raise UserError(
            f"{name} of {len(bad)} of {len(rows)} examples are NaN or infinite, first "
            f"of examples {bad[:5].tolist()}; check their values and the model's"
        )
