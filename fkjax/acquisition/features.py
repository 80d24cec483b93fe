"""Unit-norm Fisher features phi, whose inner products are a kernel of z and g."""

import jax
import jax.numpy as jnp

from fkjax.fisher.kernel import Kernel
from fkjax.sketch.structured import tensor_sketch

_LARGEST, _RANK = 1024, 512  # lengths of a whole outer product, and of a sketched one


def unit_features(
    key: jax.Array, kernel: Kernel, z: dict[str, jax.Array], g: dict[str, jax.Array]
) -> jax.Array:
    """Returns the features phi of one example.

    For a kernel that is the product of two inner products, such as
    `fkjax.fisher.kernel.last_layer`, phi is the outer product of the two factors: as a
    whole if it has 1,024 numbers or fewer, otherwise by a tensor sketch of 512 numbers,
    whose inner products have the kernel as their mean.

    Args:
        key: random key of the sketch, the same for all examples.
        kernel: kernel of z and g.
        z: features by tap. Shapes [n_l].
        g: gradients by tap. Shapes [n_l].

    Returns:
        The features, of length 1, or 0 if all are zero. Shape [K].
    """
    phi = kernel.embed(z, g)
    if kernel.factors is not None:
        a, b = kernel.factors(phi)
        if a.size * b.size <= _LARGEST:
            phi = jnp.outer(a, b).ravel()
        else:
            sketch = tensor_sketch(rank=_RANK)
            state = sketch.init(key, (a.size, b.size))
            phi = sketch.apply_factors(state, a[None], b[None])
    phi = phi.astype(jnp.result_type(float))
    return phi / (jnp.linalg.norm(phi) + 1e-10)
