"""Compares the fast convolution and pooling with the operations of lax and Flax."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fkjax.models import convolution
from fkjax.models.convolution import conv_general_dilated, conv_valid, max_pool

NUMBERS = ("NHWC", "HWIO", "NHWC")


def plain_conv(x, kernel, padding="VALID", **options):
    return lax.conv_general_dilated(
        x,
        kernel,
        options.pop("window_strides", (1, 1)),
        padding,
        dimension_numbers=NUMBERS,
        precision=lax.Precision.HIGHEST,
        **options,
    )


def plain_pool(x, size=2):
    return flax.linen.max_pool(x, (size, size), (size, size))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value_and_pull(fn, *args):
    """Returns an error, and the value of `fn` and its gradients for that error."""

    @jax.jit
    def both(args, error):
        y, pull = jax.vjp(fn, *args)
        return y, pull(error)

    error = normal(2, *jax.eval_shape(fn, *args).shape)
    return error, both(args, error.astype(args[0].dtype))


def check_same(ours, theirs, *args, tolerance=2e-5):
    _, (y, gradients) = value_and_pull(ours, *args)
    _, (expected, plain_gradients) = value_and_pull(theirs, *args)
    close(y, expected, tolerance)
    for gradient, plain in zip(gradients, plain_gradients, strict=True):
        close(gradient, plain, tolerance)


def close(actual, desired, tolerance=2e-5):
    desired = np.asarray(desired)
    assert actual.shape == desired.shape and actual.dtype == desired.dtype
    scale = abs(desired).max()
    assert scale > 0
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


@pytest.fixture
def fast_only(monkeypatch):
    """Makes a test fail if the plain convolution is called."""
    plain = lax.conv_general_dilated

    def refuse(*args, **kwargs):
        raise AssertionError("the plain convolution was called")

    monkeypatch.setattr(convolution.lax, "conv_general_dilated", refuse)
    yield
    monkeypatch.setattr(convolution.lax, "conv_general_dilated", plain)


SHAPES = [  # (N, H, W, C), (kh, kw, O)
    ((3, 9, 8, 1), (5, 5, 4)),
    ((2, 7, 5, 3), (2, 3, 6)),
    ((1, 5, 5, 2), (5, 5, 3)),
    ((4, 3, 6, 32), (1, 1, 2)),
]


@pytest.mark.parametrize(("image", "kernel"), SHAPES)
def test_values_and_both_gradients_are_laxs(image, kernel):
    kh, kw, out = kernel
    x, k = normal(0, *image), normal(1, kh, kw, image[3], out)
    check_same(conv_valid, plain_conv, x, k)


def test_the_values_are_the_sums_of_the_definition():
    """Uses integers, so that the sums are exact."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 5, 4, 2)).astype(np.float32)
    k = rng.integers(-3, 4, (3, 2, 2, 3)).astype(np.float32)
    expected = np.zeros((2, 3, 3, 3))
    for i in range(3):
        for j in range(3):
            expected[:, i, j] = np.einsum(
                "nhwc,hwco->no", x[:, i : i + 3, j : j + 2], k
            )
    np.testing.assert_array_equal(conv_valid(x, k), expected)


@pytest.mark.parametrize(
    "padding", ["VALID", "SAME", "SAME_LOWER", [(2, 1), (0, 3)], ((0, 0), (1, 0))]
)
@pytest.mark.parametrize("size", [(5, 5), (4, 3)])
def test_padding_is_laxs(padding, size, monkeypatch):
    x, k = normal(0, 2, 8, 7, 2), normal(1, *size, 2, 3)
    taken = []
    monkeypatch.setattr(
        convolution, "conv_valid", lambda *a: taken.append(a) or conv_valid(*a)
    )

    def ours(x, k):
        return conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=NUMBERS)

    check_same(ours, lambda x, k: plain_conv(x, k, padding), x, k)
    assert taken


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (2, {"window_strides": (2, 2)}),
        (2, {"window_strides": (1, 2)}),
        (2, {"rhs_dilation": (2, 1)}),
        (2, {"lhs_dilation": (1, 2), "padding": [(1, 1), (0, 2)]}),
        (4, {"feature_group_count": 2}),
        (33, {}),
    ],
)
def test_what_the_fast_route_does_not_take_goes_to_lax(channels, options, monkeypatch):
    groups = options.get("feature_group_count", 1)
    x, k = normal(0, 2, 8, 7, channels), normal(1, 3, 3, channels // groups, 4)

    def refuse(*args):
        raise AssertionError("the fast convolution was called")

    monkeypatch.setattr(convolution, "conv_valid", refuse)
    rest = {"padding": "SAME", **options}
    strides, padding = rest.pop("window_strides", (1, 1)), rest.pop("padding")

    def ours(x, k):
        return conv_general_dilated(
            x, k, strides, padding, dimension_numbers=NUMBERS, **rest
        )

    def theirs(x, k):
        return plain_conv(x, k, padding, window_strides=strides, **rest)

    check_same(ours, theirs, x, k)


def test_options_that_say_nothing_keep_the_fast_route(fast_only):
    x, k = normal(0, 1, 6, 6, 1), normal(1, 3, 3, 1, 2)
    conv_general_dilated(
        x,
        k,
        (1, 1),
        "SAME",
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        feature_group_count=1,
        dimension_numbers=NUMBERS,
    )


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 5), (3, 8)])
def test_pooling_is_flaxs(size, height, width):
    x = normal(0, 3, height, width, 2)
    _, (y, gradient) = value_and_pull(lambda x: max_pool(x, size), x)
    _, (expected, plain) = value_and_pull(lambda x: plain_pool(x, size), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(gradient[0], plain[0])


def test_nan_in_a_window_stays():
    """Also where the compiled maximum of a large array would be -inf."""
    x = jnp.zeros((32, 28, 28, 16)).at[3].set(jnp.nan).at[5, 2, 3, 4].set(jnp.nan)
    is_nan = np.isnan(jax.jit(lambda x: max_pool(x + 1))(x))
    assert is_nan[3].all() and is_nan[5, 1, 1, 4]
    assert is_nan.sum() == is_nan[3].size + 1


def test_a_ragged_border_gets_no_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 5, 7, 1)))
    np.testing.assert_array_equal(gradient[:, 4], 0)
    np.testing.assert_array_equal(gradient[:, :, 6], 0)
    assert float(gradient.sum()) == 6


def test_the_gradient_of_a_tie_sums_to_the_error_and_stays_on_the_tied():
    x = np.random.default_rng(0).integers(0, 2, (4, 6, 6, 3)).astype(np.float32)
    x[0] = 0  # all four values of every window are equal
    error, (y, (gradient,)) = value_and_pull(max_pool, x)
    gradient = np.asarray(gradient)

    def windows(a):
        return a.reshape(4, 3, 2, 3, 2, 3)

    np.testing.assert_allclose(windows(gradient).sum((2, 4)), error, rtol=1e-6)
    is_maximum = windows(x) == np.asarray(y)[:, :, None, :, None, :]
    assert is_maximum.sum() > y.size  # there are ties
    np.testing.assert_array_equal(windows(gradient)[~is_maximum], 0)


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("layer", ["convolution in x", "in the kernel", "pooling"])
def test_the_pullback_pulled_back_is_the_derivative(layer, is_mapped):
    """Compares reverse mode applied twice with forward mode of the plain operations."""
    x, kernel = normal(0, 3, 6, 7, 2), normal(1, 3, 3, 2, 4)
    ours, plain, primal = {
        "convolution in x": (
            lambda x: conv_valid(x, kernel),
            lambda x: plain_conv(x, kernel),
            x,
        ),
        "in the kernel": (
            lambda kernel: conv_valid(x, kernel),
            lambda kernel: plain_conv(x, kernel),
            kernel,
        ),
        "pooling": (max_pool, plain_pool, x),
    }[layer]

    def forward(primal, tangent):
        y, pull = jax.vjp(ours, primal)
        return jax.vjp(lambda error: pull(error)[0], jnp.zeros_like(y))[1](tangent)[0]

    tangents = normal(3, 4, *primal.shape)
    primals = np.stack([primal] * 4) + (normal(4, 4, 1, 1, 1, 1) if is_mapped else 0)
    if is_mapped:
        pushed = jax.jit(jax.vmap(forward))(primals, tangents)
    else:
        pushed = jnp.stack([forward(primal, tangent) for tangent in tangents[:2]])
    for one, p, t in zip(pushed, primals, tangents, strict=False):
        close(one, jax.jvp(plain, (p,), (t,))[1])


def example_loss(conv, pool):
    """Returns a loss of one example, with the operations between two convolutions."""

    def loss(kernels, image):
        x = image[None]
        for kernel in kernels:
            x = jnp.tanh(pool(conv(x, kernel)))
        return (x * jnp.arange(1, 1 + x.size).reshape(x.shape)).sum()

    return loss


def same_conv(x, kernel):
    return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)


ROUTES = {
    "valid": (conv_valid, plain_conv),
    "same": (same_conv, lambda x, k: plain_conv(x, k, "SAME")),
}


@pytest.fixture
def kernels():
    return [normal(1, 3, 3, 1, 4) / 3, normal(2, 2, 2, 4, 3) / 3]


@pytest.fixture
def images():
    return normal(3, 5, 11, 9, 1)


@pytest.mark.parametrize("route", ROUTES)
def test_gradients_of_each_example_are_laxs(route, kernels, images):
    ours, theirs = (
        jax.jit(jax.vmap(jax.grad(example_loss(conv, pool), (0, 1)), (None, 0)))(
            kernels, images
        )
        for conv, pool in zip(ROUTES[route], (max_pool, plain_pool), strict=True)
    )
    assert ours[0][0].shape == (5, 3, 3, 1, 4)
    jax.tree.map(lambda a, b: close(a, b, 1e-4), ours, theirs)


def test_mapped_examples_are_the_batch(kernels, images):
    @jax.jit
    def forward(x):
        return max_pool(conv_valid(x, kernels[0]))

    batch = forward(images)
    one_by_one = jax.vmap(lambda image: forward(image[None])[0])(images)
    np.testing.assert_allclose(one_by_one, batch, rtol=1e-5, atol=1e-6)
    pairs = jax.vmap(forward)(jnp.stack([images[:2], images[2:4]]))
    np.testing.assert_allclose(
        pairs.reshape(4, *batch.shape[1:]), batch[:4], rtol=1e-5, atol=1e-6
    )
    nested = jax.vmap(jax.vmap(lambda image: forward(image[None])[0]))(
        jnp.stack([images[:2], images[2:4]])
    )
    np.testing.assert_allclose(
        nested.reshape(4, *batch.shape[1:]), batch[:4], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("axes", [(None, 0), (0, 0), (0, None), (3, 1)])
def test_mapped_kernels_are_a_loop(axes):
    x, k = normal(0, 3, 6, 6, 3), normal(1, 3, 3, 3, 2)
    x = x if axes[0] is None else np.stack([x, 2 * x, -x], axes[0])
    k = k if axes[1] is None else np.stack([k, 3 * k, k + 1], axes[1])

    def loss(conv):
        return jax.value_and_grad(lambda x, k: (conv(x, k) ** 2).sum(), (0, 1))

    def pick(a, axis, i):
        return a if axis is None else np.take(a, i, axis)

    mapped = jax.jit(jax.vmap(loss(conv_valid), axes))(x, k)
    plain = jax.jit(loss(plain_conv))
    for i in range(3):
        expected = plain(pick(x, axes[0], i), pick(k, axes[1], i))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-3),
            mapped,
            expected,
        )


@pytest.mark.parametrize("route", ROUTES)
def test_inside_scan_and_fori_as_outside(route, kernels, images):
    """Takes three steps of gradient descent in three kinds of loop."""

    def make_step(conv, pool):
        per_example = jax.vmap(jax.grad(example_loss(conv, pool)), (None, 0))

        def step(kernels):
            gradients = per_example(kernels, images)
            return jax.tree.map(lambda k, g: k - 1e-3 * g.mean(0), kernels, gradients)

        return step

    start = jax.tree.map(jnp.asarray, kernels)
    plain = jax.jit(make_step(ROUTES[route][1], plain_pool))
    expected = plain(plain(plain(start)))
    step = make_step(ROUTES[route][0], max_pool)
    scanned = jax.jit(lambda s: lax.scan(lambda s, _: (step(s), None), s, length=3)[0])(
        start
    )
    looped = jax.jit(lambda s: lax.fori_loop(0, 3, lambda _, s: step(s), s))(start)
    for actual in (scanned, looped):
        jax.tree.map(lambda a, b: close(a, b, 1e-4), actual, expected)
        assert all(abs(a - b).max() > 1e-3 for a, b in zip(actual, start, strict=True))


def test_lax_map_in_chunks_is_laxs(kernels, images):
    """Maps code for one example in chunks with a remainder, as strategies do."""

    def mapped(conv, pool):
        loss = example_loss(conv, pool)
        return jax.jit(
            lambda images: lax.map(
                lambda image: jax.grad(loss)(kernels, image), images, batch_size=2
            )
        )(images)

    ours, theirs = mapped(conv_valid, max_pool), mapped(plain_conv, plain_pool)
    jax.tree.map(lambda a, b: close(a, b, 1e-4), ours, theirs)


def test_float64_stays_float64():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, k = rng.normal(size=(2, 7, 7, 3)), rng.normal(size=(3, 3, 3, 4))
        assert conv_valid(x, k).dtype == jnp.float64
        check_same(
            lambda x, k: max_pool(conv_valid(x, k)),
            lambda x, k: plain_pool(plain_conv(x, k)),
            x,
            k,
            tolerance=1e-13,
        )


def test_on_another_backend_the_plain_operations_run(monkeypatch, fast_only):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, k = normal(0, 1, 6, 6, 1), normal(1, 3, 3, 1, 2)
    with pytest.raises(AssertionError, match="plain convolution"):
        conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NUMBERS)
    monkeypatch.setattr(convolution, "_pool", None)
    np.testing.assert_array_equal(max_pool(x), plain_pool(x))
