"""Gram matrices of Fisher vectors that need not be formed: the product kernel.

The Fisher vector of a layer's weights is sum_t a_t d_t^T: a_t the layer's input and d_t
its back-propagated error at each of its T positions. That of a dense layer, where T is
1, has rank one, and an inner product of two is a product of two:

    <u, u'> = <a, a'> <d, d'>                  (Gudovskiy et al. 2020, Sec. 4.1)

The Gram of sketches is `fkjax.kernel.similarity`; sketches of layers enter `gram` here.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fkjax.base import Factors
from fkjax.kernel import similarity

_CHUNK_BYTES = 2**28
_MICROBATCH = 64


def with_bias(a: jax.Array) -> jax.Array:
    """Inputs with a trailing 1, whose weights are the bias. Shape [..., m + 1]."""
    return jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], axis=-1)


def weight_gradient(a: jax.Array, d: jax.Array) -> jax.Array:
    """The Fisher vector sum_t a_t d_t^T itself, of one example.

    Args:
        a: inputs, with a trailing 1 where there is a bias. Shape [m] or [T, m].
        d: errors. Shape [n] or [T, n].

    Returns:
        Shape [m, n].
    """
    a, d = (jnp.atleast_2d(x) for x in (a, d))
    if len(a) == 1:
        return a[0, :, None] * d[0]
    # Else XLA computes the patches anew inside the product, and, mapped over examples,
    # multiplies in the layout of the convolutions, where a matrix is strided.
    a_transposed, d = jax.lax.optimization_barrier((a.T, d))
    return jnp.matmul(a_transposed, d, precision=jax.lax.Precision.HIGHEST)


def product_gram(
    a: jax.Array, d: jax.Array, a2: jax.Array, d2: jax.Array, *, has_bias: bool
) -> jax.Array:
    """<u, u'> = (<a, a'> + 1) <d, d'>: exact, for a dense layer; no + 1 without bias.

    >>> a, d = jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])
    >>> product_gram(a, d, a, d, has_bias=True)
    Array([[54.]], dtype=float32)

    Args:
        a: inputs of the first examples. Shape [N, m].
        d: their errors. Shape [N, n].
        a2: inputs of the second. Shape [M, m].
        d2: their errors. Shape [M, n].
        has_bias: whether the layer has a bias.

    Returns:
        Shape [N, M].

    Raises:
        ValueError: if the shapes are not those of one dense layer.
    """
    _check(Factors(a, d), Factors(a2, d2), ndim=2)
    return (similarity(a, a2) + float(has_bias)) * similarity(d, d2)


def convolution_gram(
    a: jax.Array,
    d: jax.Array,
    a2: jax.Array,
    d2: jax.Array,
    *,
    has_bias: bool,
    chunk_size: int | None = None,
) -> jax.Array:
    """<u, u'> of u = sum_t a_t d_t^T, which is formed for one chunk at a time.

    Pairs of positions, as in `product_gram`, would take T^2 of its steps.

    Args:
        a: patches of the first examples. Shape [N, T, m].
        d: their errors. Shape [N, T, n].
        a2: patches of the second. Shape [M, T, m].
        d2: their errors. Shape [M, T, n].
        has_bias: whether the layer has a bias.
        chunk_size: how many examples' gradients to hold, of each side; those of the
            second are made anew for each chunk of the first. By default as many as
            256 MB hold.

    Returns:
        Shape [N, M].

    Raises:
        ValueError: if the shapes are not those of one convolution.
    """
    _check(Factors(a, d), Factors(a2, d2), ndim=3)
    if chunk_size is None:
        chunk_size = max(1, _CHUNK_BYTES // (4 * (a.shape[2] + 1) * d.shape[2]))
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, got {chunk_size}")

    a, d, a2, d2 = map(jnp.asarray, (a, d, a2, d2))

    def gradients(factors: Factors, start: jax.Array) -> jax.Array:
        """Those of one chunk; beyond the last example they do not matter."""

        def one(i: jax.Array) -> jax.Array:  # by its position: a chunk is never copied
            a, d = factors.a[i], factors.d[i]
            return weight_gradient(with_bias(a) if has_bias else a, d).ravel()

        size = min(chunk_size, len(factors.a))
        return jax.lax.map(one, start + jnp.arange(size), batch_size=_MICROBATCH)

    def rows(start: jax.Array) -> jax.Array:
        u = gradients(Factors(a, d), start)
        chunks = jax.lax.map(
            lambda start: similarity(u, gradients(Factors(a2, d2), start)),
            jnp.arange(0, len(a2), chunk_size),
        )
        return jnp.concatenate(list(chunks), axis=1)

    chunks = jax.lax.map(rows, jnp.arange(0, len(a), chunk_size))
    return jnp.concatenate(list(chunks))[: len(a), : len(a2)]


Layers = Mapping[str, Factors | jax.Array]
"""What stands for the Fisher vectors of each layer, by the layer's name: its factors
(the T of a dense layer may be left out), or vectors or sketches of them, [N, K]."""


def gram(
    layers: Layers, layers2: Layers, *, has_bias: bool, chunk_size: int | None = None
) -> jax.Array:
    """<u, u'> of Fisher vectors over several layers: the sum over the layers.

    Sums of independent unbiased sketches are unbiased, so one layer may be exact and
    another sketched.

    Args:
        layers: of the first N examples.
        layers2: of the second M, of the same kinds.
        has_bias: whether the layers that are given as factors have a bias.
        chunk_size: see `convolution_gram`.

    Returns:
        Shape [N, M].

    Raises:
        ValueError: if the two have different layers, or one layer different shapes.
    """
    if not layers or set(layers) != set(layers2):
        raise ValueError(
            "both sides must have the same layers, at least one, got "
            f"{sorted(layers)} and {sorted(layers2)}"
        )

    def one(name: str) -> jax.Array:
        first, second = layers[name], layers2[name]
        if isinstance(first, Factors) != isinstance(second, Factors):
            raise ValueError(f"{name} is given as factors on one side only")
        if not isinstance(first, Factors) or not isinstance(second, Factors):
            return similarity(jnp.asarray(first), jnp.asarray(second))
        if first.a.ndim == 3 and first.a.shape[1] == 1:  # one position: a dense layer
            first, second = (Factors(a[:, 0], d[:, 0]) for a, d in (first, second))
        if first.a.ndim == 2:
            return product_gram(*first, *second, has_bias=has_bias)
        return convolution_gram(
            *first, *second, has_bias=has_bias, chunk_size=chunk_size
        )

    return sum(map(one, sorted(layers)), start=jnp.zeros(()))


def _check(first: Factors, second: Factors, *, ndim: int) -> None:
    shapes = [x.shape for x in (*first, *second)]
    a, d, a2, d2 = shapes
    if not (
        all(len(shape) == ndim for shape in shapes)
        and a[:-1] == d[:-1]
        and a2[:-1] == d2[:-1]
        and (a[1:], d[1:]) == (a2[1:], d2[1:])
    ):
        axes = "" if ndim == 2 else "T, "
        raise ValueError(
            f"a [N, {axes}m], d [N, {axes}n], a2 [M, {axes}m], d2 [M, {axes}n] of one "
            f"layer were expected, got {', '.join(map(str, shapes))}"
        )
