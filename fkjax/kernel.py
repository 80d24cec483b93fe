"""The practical Fisher kernel: block-wise Pearson correlation of descriptors."""

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
