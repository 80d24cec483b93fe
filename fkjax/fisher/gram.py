"""Gram matrices of Fisher vectors, computed from their factors: the product kernel.

The Fisher vector of a layer's weights is sum_t a_t d_t^T, where a_t is the input of the
layer and d_t its back-propagated error at position t of T. For a dense layer, T is 1:
the vector has rank one, and the inner product of two vectors is

    <u, u'> = <a, a'> <d, d'>                  (Gudovskiy et al. 2020, Sec. 4.1)

`fkjax.fisher.kernel.similarity` computes the Gram matrix of sketches. `gram` takes
factors of some layers and sketches of others.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fkjax.base import widened
from fkjax.fisher.factors import Factors, matmul, with_bias
from fkjax.fisher.kernel import similarity

_CHUNK_BYTES = 2**28
_BLOCK_BYTES = 2**24  # of the result, so that its partial sums fit in the caches
_MICROBATCH = 16


def product_gram(
    a: jax.Array, d: jax.Array, a2: jax.Array, d2: jax.Array, *, has_bias: bool
) -> jax.Array:
    """Computes <u, u'> = (<a, a'> + 1) <d, d'>, exactly, for a dense layer.

    The term + 1 is that of the bias, and is omitted without one.

    >>> a, d = jnp.array([[1.0, 2.0]]), jnp.array([[3.0]])
    >>> product_gram(a, d, a, d, has_bias=True)
    Array([[54.]], dtype=float32)

    Args:
        a: inputs for the first examples. Shape [N, m].
        d: errors for the first examples. Shape [N, n].
        a2: inputs for the second examples. Shape [M, m].
        d2: errors for the second examples. Shape [M, n].
        has_bias: whether the layer has a bias.

    Returns:
        The Gram matrix. Shape [N, M].

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
    """Computes <u, u'> for a convolution, from gradients u = sum_t a_t d_t^T in chunks.

    Using `product_gram` for all pairs of positions would take T^2 times its work.

    Args:
        a: patches for the first examples. Shape [N, T, m].
        d: errors for the first examples. Shape [N, T, n].
        a2: patches for the second examples. Shape [M, T, m].
        d2: errors for the second examples. Shape [M, T, n].
        has_bias: whether the layer has a bias.
        chunk_size: number of examples of each side whose gradients are held in memory;
            gradients of the second side are recomputed for each chunk of the first. By
            default, as many as fit in 256 MB.

    Returns:
        The Gram matrix. Shape [N, M].

    Raises:
        ValueError: if the shapes are not those of one convolution, or `chunk_size` is
            not positive.
    """
    first, second = Factors(a, d), Factors(a2, d2)
    _check(first, second, ndim=3)
    size = _chunk_size(first, chunk_size)
    return _convolution_gram(first, second, has_bias=has_bias, size=size)


@functools.partial(jax.jit, static_argnames=("has_bias", "size"))
def _convolution_gram(
    first: Factors, second: Factors, *, has_bias: bool, size: int
) -> jax.Array:
    if 0 in (len(first.a), len(second.a)):
        return jnp.zeros((len(first.a), len(second.a)), widened(first.a[:0]).dtype)

    def rows(start: jax.Array) -> jax.Array:
        u = _gradients(first, start, size, has_bias)
        chunks = jax.lax.map(
            lambda start: similarity(u, _gradients(second, start, size, has_bias)),
            jnp.arange(0, len(second.a), size),
        )
        return jnp.concatenate(list(chunks), axis=1)

    chunks = jax.lax.map(rows, jnp.arange(0, len(first.a), size))
    return jnp.concatenate(list(chunks))[: len(first.a), : len(second.a)]


def _chunk_size(factors: Factors, given: int | None) -> int:
    """Returns the number of gradients to hold at a time."""
    if given is not None and given < 1:
        raise ValueError(f"chunk_size must be 1 or more, got {given}")
    bytes_of_one = 4 * (factors.a.shape[-1] + 1) * factors.d.shape[-1]
    return given or max(1, _CHUNK_BYTES // bytes_of_one)


def _gradients(
    factors: Factors, start: int | jax.Array, size: int, has_bias: bool
) -> jax.Array:
    """Computes the gradients of `size` examples from `start` on.

    Rows beyond the last example are arbitrary.
    """
    a, d = map(jnp.asarray, factors)

    def one(i: jax.Array) -> jax.Array:  # indexed, so that no chunk is copied
        x = with_bias(a[i]) if has_bias else a[i]
        # The transpose of the gradient, on both sides, as d is smaller to transpose.
        d_transposed = jax.lax.optimization_barrier(d[i].T)
        return matmul(d_transposed, x).ravel()

    if len(a) == 0:
        num_inputs = a.shape[-1] + int(has_bias)
        return jnp.zeros((0, num_inputs * d.shape[-1]), widened(d).dtype)
    indices = start + jnp.arange(min(size, len(a)))
    return jax.lax.map(one, indices, batch_size=_MICROBATCH)


LayerVectors = Mapping[str, Factors | jax.Array]
"""The Fisher vectors of each layer, by the name of the layer: factors (a dense layer
may omit the axis T), or vectors or sketches of shape [N, K]."""


def gram(
    layers: LayerVectors,
    layers2: LayerVectors,
    *,
    has_bias: bool,
    chunk_size: int | None = None,
) -> jax.Array:
    """Computes <u, u'> of Fisher vectors over several layers, as a sum over layers.

    Some layers may be exact and others sketched: the sum of independent unbiased
    sketches is unbiased.

    Args:
        layers: layers of the first N examples.
        layers2: the same layers of the second M examples, of the same kinds.
        has_bias: whether the layers that are given as factors have a bias.
        chunk_size: number of gradients to hold; see `convolution_gram`.

    Returns:
        The Gram matrix. Shape [N, M].

    Raises:
        ValueError: if the names of the layers, or the kinds or shapes of a layer,
            differ.
    """
    if not layers or set(layers) != set(layers2):
        raise ValueError(
            "both sides must have the same layers, one or more, got "
            f"{sorted(layers)} and {sorted(layers2)}"
        )

    pairs = {name: (layers[name], layers2[name]) for name in sorted(layers)}
    return _gram(pairs, has_bias=has_bias, chunk_size=chunk_size)


@functools.partial(jax.jit, static_argnames=("has_bias", "chunk_size"))
def _gram(
    pairs: dict[str, tuple[Any, Any]], *, has_bias: bool, chunk_size: int | None
) -> jax.Array:
    fast: dict[str, tuple[Any, Any]] = {}  # layers that take a few matrix products
    slow = []
    for name, (first, second) in pairs.items():
        if isinstance(first, Factors) != isinstance(second, Factors):
            raise ValueError(
                f"{name} must be factors on both sides or on neither, got factors on "
                "one side only"
            )
        if not isinstance(first, Factors) or not isinstance(second, Factors):
            fast[name] = jnp.asarray(first), jnp.asarray(second)
            continue
        _check(first, second, ndim=first.a.ndim)
        sides: Any = first, second
        if first.a.ndim == 3 and first.a.shape[1] == 1:  # a dense layer
            sides = tuple(Factors(a[:, 0], d[:, 0]) for a, d in sides)
        elif first.a.ndim == 3:
            size, lengths = _chunk_size(first, chunk_size), [len(f.a) for f in sides]
            if max(lengths) > size:
                slow.append(
                    convolution_gram(
                        *first, *second, has_bias=has_bias, chunk_size=size
                    )
                )
                continue
            sides = tuple(
                _gradients(f, 0, length, has_bias)
                for f, length in zip(sides, lengths, strict=True)
            )
        fast[name] = sides
    if fast:
        slow.append(_blockwise(list(fast.values()), has_bias))
    return functools.reduce(jnp.add, slow)


def _blockwise(layers: list[tuple[Any, Any]], has_bias: bool) -> jax.Array:
    """Computes the sum over layers, each [N, m] and [N, n] or [N, K], by row blocks."""
    num, num2 = (len(jax.tree.leaves(side)[0]) for side in layers[0])
    num_blocks = max(1, -(-4 * num * num2 // _BLOCK_BYTES))
    size = -(-num // num_blocks)

    def rows(start: jax.Array) -> jax.Array:
        indices = start + jnp.arange(size)
        terms = []
        for first, second in layers:
            first = jax.tree.map(lambda x: jnp.asarray(x)[indices], first)
            if isinstance(first, Factors):
                terms.append(product_gram(*first, *second, has_bias=has_bias))
            else:
                terms.append(similarity(first, second))
        return functools.reduce(jnp.add, terms)

    if 0 in (num, num2):
        return rows(jnp.int32(0))
    blocks = jax.lax.map(rows, jnp.arange(0, num, size))
    return blocks.reshape(len(blocks) * size, num2)[:num]


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
            f"expected a [N, {axes}m], d [N, {axes}n], a2 [M, {axes}m] and "
            f"d2 [M, {axes}n] of one layer, got {', '.join(map(str, shapes))}"
        )
