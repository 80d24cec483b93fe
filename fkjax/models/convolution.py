"""Fast small convolutions and poolings for XLA's CPU backend.

On CPU, XLA lowers the convolutions of a LeNet to generic loops, and inside `lax.scan`
it runs them on one thread. Written as the product of patches and kernel, with the batch
as the last axis in memory, the same sums become one matrix product that is vectorized
over the examples. On other backends, the operations of `lax` and Flax are used; they
are also the reference of the tests.

Both operations take and return arrays of shape `[N, H, W, C]`; XLA cancels the
transpositions between consecutive layers. Under `vmap`, the mapped axis is merged into
the batch, so that code for one example is as fast as code for a batch. Both operations
can be differentiated twice in reverse mode.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from fkjax.fisher.layers import register_convolution

_CHANNELS_LAST = lax.conv_dimension_numbers(
    (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
)


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Computes the maximum over non-overlapping windows; incomplete ones are dropped.

    The maximum of a window that contains NaN is NaN. On CPU, the compiled pooling of
    Flax and the compiled `jnp.max` of a large array leave NaN out, and return -inf if
    there is nothing else.

    Args:
        x: activations. Shape [N, H, W, C].
        size: height and width of the window, and the stride.

    Returns:
        The maxima. Shape [N, H // size, W // size, C].
    """
    if jax.default_backend() != "cpu":
        return flax.linen.max_pool(x, (size, size), (size, size))
    return _pool(size, x)


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Computes `lax.conv_general_dilated`, faster on CPU where possible.

    The fast implementation is used on CPU for stride 1, no dilation, one group, at most
    32 input channels and the layout [N, H, W, C]. Otherwise, `lax` is called. The
    function can be passed to Flax's layers as `conv_general_dilated`.

    Args:
        x: activations. Shape [N, H, W, C].
        kernel: kernel. Shape [kh, kw, C, O].
        window_strides: see `lax.conv_general_dilated`.
        padding: "VALID", "SAME" or a (before, after) pair for each of H and W.
        **options: further arguments of `lax.conv_general_dilated`.

    Returns:
        The convolution. Shape [N, H', W', O].
    """
    if jax.default_backend() == "cpu" and _is_small(x, kernel, window_strides, options):
        pads = padding
        if isinstance(pads, str):
            pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), pads)
        if min(size for pair in pads for size in pair) >= 0:
            return conv_valid(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel)
    return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)


def _is_small(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], options: dict[str, Any]
) -> bool:
    dilations = (options.get("lhs_dilation"), options.get("rhs_dilation"))
    numbers = lax.conv_dimension_numbers(
        x.shape, kernel.shape, options.get("dimension_numbers")
    )
    return (
        numbers == _CHANNELS_LAST
        and options.get("preferred_element_type") is None
        and kernel.shape[2] <= 32
        and all(stride == 1 for stride in strides)
        and all(step == 1 for steps in dilations for step in steps or ())
        and options.get("feature_group_count", 1) == 1
        and options.get("batch_group_count", 1) == 1
    )


def _per_example(num_examples: int):
    """Returns a decorator under which `vmap` enlarges the batch of a function.

    The function takes `num_examples` arguments whose first axis is the batch, then
    arguments that all examples share.
    """

    def decorate(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        mapped = custom_vmap(fn)

        @mapped.def_vmap
        def rule(axis_size: int, is_mapped: Sequence[bool], *args: jax.Array):
            examples, shared = args[:num_examples], args[num_examples:]
            if all(is_mapped[:num_examples]) and not any(is_mapped[num_examples:]):
                merged = [x.reshape(-1, *x.shape[2:]) for x in examples]
                y = mapped(*merged, *shared)
                return y.reshape(axis_size, -1, *y.shape[1:]), True
            axes = [0 if m else None for m in is_mapped]
            return jax.vmap(fn, axes)(*args), True

        return mapped

    return decorate


def _batch_last(x: jax.Array) -> jax.Array:
    return x.transpose(3, 1, 2, 0)  # [N, H, W, C] -> [C, H, W, N]


def _batch_first(x: jax.Array) -> jax.Array:
    return x.transpose(3, 1, 2, 0)  # [C, H, W, N] -> [N, H, W, C]


def _patches(x: jax.Array, kh: int, kw: int) -> jax.Array:
    """Extracts the patches at all kernel positions, [kh kw C, H', W', N]."""
    x = _batch_last(x)
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    x = jnp.concatenate([x[:, :, j : j + width] for j in range(kw)])
    return jnp.concatenate([x[:, i : i + height] for i in range(kh)])


@_per_example(1)
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    patches = _patches(x, *kernel.shape[:2])
    y = jnp.tensordot(kernel.reshape(-1, kernel.shape[3]), patches, ((0,), (0,)))
    return _batch_first(y)


@jax.custom_vjp
def _input_gradient(error: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve_back(error, kernel)


@_per_example(1)
def _convolve_back(error: jax.Array, kernel: jax.Array) -> jax.Array:
    kh, kw, channels, _ = kernel.shape
    n, height, width, _ = error.shape
    x = jax.ShapeDtypeStruct(
        (n, height + kh - 1, width + kw - 1, channels), error.dtype
    )
    to_input = jax.linear_transpose(functools.partial(_patches, kh=kh, kw=kw), x)
    patches = jnp.tensordot(
        kernel.reshape(-1, kernel.shape[3]), _batch_last(error), ((1,), (0,))
    )
    return to_input(patches)[0]


def _kernel_gradient(x: jax.Array, error: jax.Array) -> jax.Array:
    kh, kw = x.shape[1] - error.shape[1] + 1, x.shape[2] - error.shape[2] + 1
    axes = ((1, 2, 3), (1, 2, 3))
    product = jnp.tensordot(_patches(x, kh, kw), _batch_last(error), axes)
    return product.reshape(kh, kw, x.shape[3], error.shape[3])


# `_convolve_back` is linear in each argument, and its transpose is the convolution.
_input_gradient.defvjp(
    lambda error, kernel: (_convolve_back(error, kernel), (error, kernel)),
    lambda saved, x: (_convolve(x, saved[1]), _kernel_gradient(x, saved[0])),
)


@register_convolution
@jax.custom_vjp
def conv_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution without padding at stride 1, as one matrix product.

    Args:
        x: activations. Shape [N, H, W, C].
        kernel: kernel. Shape [kh, kw, C, O].

    Returns:
        The convolution. Shape [N, H - kh + 1, W - kw + 1, O].
    """
    return _convolve(x, kernel)


conv_valid.defvjp(
    lambda x, kernel: (_convolve(x, kernel), (x, kernel)),
    lambda saved, error: (
        _input_gradient(error, saved[1]),
        _kernel_gradient(saved[0], error),
    ),
)


def _windows(size: int, x: jax.Array) -> jax.Array:
    """Splits [N, H, W, C] into windows [C, H // size, size, W // size, size, N]."""
    x = _batch_last(x)
    c, h, w, n = x.shape
    x = x[:, : h - h % size, : w - w % size]
    return x.reshape(c, h // size, size, w // size, size, n)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(size: int, x: jax.Array) -> jax.Array:
    return _per_example(1)(functools.partial(_pool_slices, size))(x)


def _pool_slices(size: int, x: jax.Array) -> jax.Array:
    windows, at = _windows(size, x), range(size)
    slices = [windows[:, :, i, :, j] for i in at for j in at]
    return _batch_first(functools.reduce(jnp.maximum, slices))


def _pool_windows(size: int, x: jax.Array) -> jax.Array:
    """Computes the same; its gradient is shared equally by the maxima of a window."""
    return _batch_first(_windows(size, x).max((2, 4)))


def _pool_forward(size: int, x: jax.Array, tangent: jax.Array) -> jax.Array:
    return jax.jvp(functools.partial(_pool_windows, size), (x,), (tangent,))[1]


def _pool_back(size: int, x: jax.Array, error: jax.Array) -> jax.Array:
    return jax.vjp(functools.partial(_pool_windows, size), x)[1](error)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool_gradient(size: int, x: jax.Array, error: jax.Array) -> jax.Array:
    return _per_example(2)(functools.partial(_pool_back, size))(x, error)


_pool.defvjp(
    lambda size, x: (_pool(size, x), x),
    lambda size, x, error: (_pool_gradient(size, x, error),),
)

# The position of the maximum does not depend on x, almost everywhere.
_pool_gradient.defvjp(
    lambda size, x, error: (_pool_gradient(size, x, error), x),
    lambda size, x, tangent: (
        jnp.zeros_like(x),
        _per_example(2)(functools.partial(_pool_forward, size))(x, tangent),
    ),
)
