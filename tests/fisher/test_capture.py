"""Factors of layers, and what falls back to a plain gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fkjax.fisher import capture, layers, vectors
from fkjax.models import convolution
from tests.fisher.captures import C, check, classify, close, normal


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_a_dense_layer_has_its_closed_form():
    theta, x = {"w": normal(0, 4, C), "b": normal(1, C)}, normal(2, 4)

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(x @ theta["w"] + theta["b"])

    captured = capture.capture(log_probs_fn, theta, x, 1)
    ((a, d),) = captured.factors["w"]
    residual = np.eye(C)[1] - np.exp(log_probs_fn(theta, x))
    np.testing.assert_allclose(a, x[None], rtol=1e-13)
    np.testing.assert_allclose(d, residual[None], rtol=1e-12)
    np.testing.assert_allclose(captured.rest["b"], residual, rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "x", "kernel"),
    [
        ("i,io->o", (4,), (4, 5)),
        ("i,oi->o", (4,), (5, 4)),
        ("ti,io->to", (6, 4), (4, 5)),
        ("ti,oi->ot", (6, 4), (5, 4)),
        ("sti,iho->stho", (2, 3, 4), (4, 2, 3)),  # several heads
        ("thi,ohi->to", (3, 2, 4), (5, 2, 4)),
        ("thi,oih->ot", (3, 2, 4), (5, 4, 2)),
        ("i,o->io", (3,), (4,)),  # an outer product
    ],
)
@pytest.mark.parametrize("is_first", [False, True], ids=["x w", "w x"])
def test_matrix_products_in_any_order(spec, x, kernel, is_first):
    operands, out = spec.split("->")
    swapped = ",".join(reversed(operands.split(","))) + "->" + out

    def log_probs_fn(theta, x):
        if is_first:
            return classify(jnp.einsum(swapped, theta, x))
        return classify(jnp.einsum(spec, x, theta))

    check(log_probs_fn, normal(0, *kernel), normal(1, 4, *x), [""])


CONVOLUTIONS = [  # x, kernel, dimension numbers, options
    ((1, 7, 6, 2), (3, 3, 2, 4), ("NHWC", "HWIO", "NHWC"), {}),
    ((1, 7, 6, 2), (3, 2, 2, 4), ("NHWC", "HWIO", "NHWC"), {"padding": "SAME"}),
    ((1, 7, 8, 2), (3, 3, 2, 4), ("NHWC", "HWIO", "NHWC"), {"window_strides": (2, 3)}),
    (
        (1, 8, 8, 2),
        (3, 3, 2, 4),
        ("NHWC", "HWIO", "NHWC"),
        {"window_strides": (2, 2), "padding": "SAME"},
    ),
    (
        (1, 9, 8, 2),
        (3, 2, 2, 4),
        ("NHWC", "HWIO", "NHWC"),
        {"rhs_dilation": (2, 3), "padding": [(1, 2), (0, 3)]},
    ),
    (
        (1, 4, 5, 2),
        (3, 3, 2, 4),
        ("NHWC", "HWIO", "NHWC"),
        {"lhs_dilation": (2, 1), "padding": [(2, 1), (-1, 1)]},
    ),
    ((1, 5, 6, 3), (1, 1, 3, 4), ("NHWC", "HWIO", "NHWC"), {"window_strides": (2, 2)}),
    ((2, 3, 6, 5), (4, 3, 2, 3), ("NCHW", "OIHW", "NCHW"), {"padding": "SAME"}),
    ((1, 9, 2), (3, 2, 4), ("NWC", "WIO", "NWC"), {"window_strides": (2,)}),
    ((1, 4, 5, 4, 2), (2, 3, 2, 2, 3), ("NDHWC", "DHWIO", "NDHWC"), {}),
]


@pytest.mark.parametrize(("x", "kernel", "numbers", "options"), CONVOLUTIONS)
def test_convolutions(x, kernel, numbers, options):
    def log_probs_fn(theta, x):
        rest = {"padding": "VALID", **options}
        strides = rest.pop("window_strides", (1,) * (len(kernel) - 2))
        y = lax.conv_general_dilated(
            x, theta, strides, dimension_numbers=numbers, **rest
        )
        return classify(y)

    (use,) = check(log_probs_fn, normal(0, *kernel), normal(1, 3, *x), [""]).uses[""]
    assert use.kind == "convolution"


def test_patches_are_in_the_order_of_the_kernels_axes():
    kernel, x = normal(0, 2, 3, 2, 4), normal(1, 1, 5, 6, 2)

    def log_probs_fn(theta, x):
        return classify(convolution.conv_valid(x, theta))

    ((a, _),) = capture.capture(log_probs_fn, kernel, x, 0).factors[""]
    expected = [x[0, i : i + 2, j : j + 3].ravel() for i in range(4) for j in range(4)]
    np.testing.assert_array_equal(a, expected)


def test_the_projects_own_convolution_is_found_behind_its_derivative_rule():
    theta = {"kernel": normal(0, 3, 2, 2, 4), "bias": normal(1, 4)}

    def log_probs_fn(theta, x):
        return classify(
            convolution.conv_valid(x, theta["kernel"]) + theta["bias"][None, None, None]
        )

    check(log_probs_fn, theta, normal(2, 3, 1, 6, 5, 2), ["kernel"])


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolutions_fall_back(groups):
    def log_probs_fn(theta, x):
        return classify(
            lax.conv_general_dilated(
                x,
                theta,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        )

    kernel = normal(0, 3, 3, 4 // groups, 8)
    plan = check(log_probs_fn, kernel, normal(1, 2, 1, 5, 5, 4), [])
    assert plan.rest == {"": "used by conv_general_dilated"}


def test_a_kernel_used_twice_has_two_terms():
    def log_probs_fn(theta, x):
        return classify(jnp.tanh(x @ theta["w"]) @ theta["w"].T @ theta["v"])

    theta = {"w": normal(0, 4, 5), "v": normal(1, 4, 2)}
    plan = check(log_probs_fn, theta, normal(2, 3, 6, 4), ["w", "v"])
    assert [use[:4] for use in plan.uses["w"]] == [
        ("dense", 6, 4, 5),
        ("dense", 6, 5, 4),
    ]


def test_a_tied_embedding_falls_back_and_its_reading_out_alone_does_not():
    def tied(theta, tokens):
        return classify(jnp.tanh(theta[tokens]) @ theta.T)

    tokens = jnp.array([[0, 2, 1], [3, 3, 0]])
    plan = check(tied, normal(0, 4, 5), tokens, [])
    assert "gather" in plan.rest[""]


FALLBACKS = {
    "decayed": lambda w, x: (x @ w) * (w**2).sum(),
    "returned": lambda w, x: jnp.concatenate([(x @ w).ravel(), w.ravel()]),
    "scaled": lambda w, x: x @ (w / jnp.linalg.norm(w)),
    "squared": lambda w, x: w.T @ w + x.sum(),
    "relu": lambda w, x: x @ jax.nn.relu(w),
    "masked": lambda w, x: x @ jnp.tril(w),
    "sliced": lambda w, x: x @ w[:, :2],
    "batched": lambda w, x: jnp.einsum("ti,ti->t", x[:4], w),
    "scanned": lambda w, x: lax.scan(lambda h, _: (jnp.tanh(h @ w), 0), x, None, 3)[0],
    "conditional": lambda w, x: lax.cond(x.sum() > 0, lambda: x @ w, lambda: w @ w),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_other_uses_fall_back(name):
    def log_probs_fn(theta, x):
        return classify(FALLBACKS[name](theta["w"], x @ theta["v"]))

    theta = {"w": normal(0, 4, 4), "v": normal(1, 3, 4)}
    plan = check(log_probs_fn, theta, normal(2, 3, 4, 3), ["v"])
    assert set(plan.rest) == {"w"}


def test_a_leaf_that_is_returned_or_not_used_falls_back():
    theta = {"w": normal(0, 3), "unused": normal(1, 2)}
    plan = capture.plan(lambda theta, x: theta["w"], theta, normal(2, 3))
    assert plan.rest == {"unused": "not used", "w": "returned"}
    captured = capture.capture(lambda theta, x: theta["w"], theta, normal(2, 3), 1)
    np.testing.assert_array_equal(captured.rest["w"], [0, 1, 0])
    np.testing.assert_array_equal(captured.rest["unused"], [0, 0])


def test_a_derivative_rule_of_ones_own_is_kept():
    """Its weight gradient may be anything: here it is three times the true one."""

    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(
        lambda x, w: (x @ w, (x, w)),
        lambda saved, e: (2 * e @ saved[1].T, 3 * saved[0].T @ e),
    )

    def log_probs_fn(theta, x):
        return classify(product(x @ theta["v"], theta["w"]))

    theta = {"w": normal(0, 4, 4), "v": normal(1, 3, 4)}
    plan = check(log_probs_fn, theta, normal(2, 3, 4, 3), ["v"])
    assert plan.rest == {"w": "used by custom_vjp_call"}


def test_relu_keeps_its_derivative_at_zero():
    def log_probs_fn(theta, x):
        return classify(jax.nn.relu(x @ theta["w"]) @ theta["v"])

    theta = {"w": normal(0, 4, 5).at[:, 2].set(0), "v": normal(1, 5, 2)}
    expected = vectors.fisher_vector(log_probs_fn, theta, normal(2, 4), 1)
    plan = capture.plan(log_probs_fn, theta, normal(2, 4))
    actual = capture.gradient(
        plan, capture.capture(log_probs_fn, theta, normal(2, 4), 1)
    )
    close(actual, expected)
    np.testing.assert_array_equal(actual["w"][:, 2], 0)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint], ids=["jit", "remat"])
def test_functions_that_are_called_are_looked_into(wrap):
    """The same traced function serves both layers, with different kernels."""
    layer = wrap(lambda w, b, x: jnp.tanh(x @ w + b))

    def log_probs_fn(theta, x):
        for i in range(2):
            x = layer(theta["w"][i], theta["b"][i], x)
        return classify(x)

    theta = {
        "w": [normal(0, 4, 4), normal(1, 4, 4)],
        "b": [normal(2, 4), normal(3, 4)],
    }
    check(wrap(log_probs_fn), theta, normal(4, 3, 4), ["w/0", "w/1"])


def test_kernels_kept_in_other_shapes_and_dtypes():
    def log_probs_fn(theta, x):
        kernel = theta.astype(jnp.float32)[::-1].T.reshape(2, 3, 4)
        return classify(jnp.einsum("tjk,jko->to", x.astype(jnp.float32), kernel))

    plan = check(
        log_probs_fn, normal(0, 4, 6), normal(1, 3, 5, 2, 3), [""], tolerance=1e-6
    )
    assert plan.uses[""][0][:4] == ("dense", 5, 6, 4)


def test_no_kernels_gradient_is_computed():
    """No product in the whole computation has the shape of a kernel."""
    theta = {"w": normal(0, 7, 5), "k": normal(1, 3, 2, 2, 11)}

    def log_probs_fn(theta, x):
        y = convolution.conv_valid(x, theta["k"])
        return classify(jnp.tanh(y.reshape(-1, 7)) @ theta["w"])

    def lowered(fn):
        return jax.jit(fn).lower(theta, normal(2, 1, 9, 8, 2)).compile().as_text()

    def products(fn):
        lines = [line for line in lowered(fn).splitlines() if " dot(" in line]
        return [s for s in ("[7,5]", "[12,11]") if any(f"= f64{s}" in x for x in lines)]

    assert products(lambda t, x: jax.grad(lambda t: log_probs_fn(t, x)[0])(t)) == [
        "[7,5]",
        "[12,11]",
    ]
    assert not products(lambda t, x: capture.capture(log_probs_fn, t, x, 0))


def test_the_label_may_be_chosen_between_the_passes():
    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(x @ theta)

    theta, x = normal(0, 4, C), normal(1, 4)
    log_p, backward = capture.forward(log_probs_fn, theta, x)
    np.testing.assert_allclose(log_p, log_probs_fn(theta, x), rtol=1e-13)
    label = log_p.argmax()
    close(
        backward(jax.nn.one_hot(label, C, dtype=log_p.dtype)),
        capture.capture(log_probs_fn, theta, x, label),
    )
    # Under its own probabilities the expected score is zero.
    ((_, d),) = backward(jnp.exp(log_p)).factors[""]
    np.testing.assert_allclose(d, 0, atol=1e-15)


def test_the_plan_reads_as_a_table():
    def log_probs_fn(theta, x):
        return classify(x @ theta["kernel"] + theta["b"][None])

    theta = {"kernel": normal(0, 4, 5), "b": normal(1, 5)}
    assert str(capture.plan(log_probs_fn, theta, normal(2, 6, 4))).splitlines() == [
        "b       plain: used by add",
        "kernel  dense T=6 m=4 n=5",
    ]


def test_a_known_convolution_is_told_by_its_derivative_rule():
    """A function of the same name and body is not the one that was registered."""

    @jax.custom_vjp
    def conv_valid(x, kernel):
        return convolution.conv_valid(x, kernel)

    conv_valid.defvjp(
        lambda x, k: (convolution.conv_valid(x, k), (x, k)),
        lambda saved, e: (jnp.ones_like(saved[0]), jnp.ones_like(saved[1])),
    )

    def log_probs_fn(theta, x):
        return classify(conv_valid(x, theta))

    x, kernel = normal(0, 1, 5, 5, 2), normal(1, 3, 3, 2, 4)
    assert capture.plan(log_probs_fn, kernel, x).rest
    layers.register_convolution(conv_valid)
    try:
        assert capture.plan(log_probs_fn, kernel, x).uses
    finally:
        layers._REGISTERED.remove(conv_valid)
