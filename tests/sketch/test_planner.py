"""The planner's choices, their order, and that they may be overruled."""

import jax
import jax.numpy as jnp
import pytest

from fkjax.sketch.planner import auto
from fkjax.sketch.structured import khatri_rao, tensor_sketch
from fkjax.sketch.unstructured import count_sketch, gaussian


def net(theta, x):
    """A convolution at 28 x 28 positions and one at 2 x 2, and a wide dense layer."""
    x = jax.lax.conv_general_dilated(
        x[None],
        theta["wide"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.lax.conv_general_dilated(
        x[:, :2, :2],
        theta["deep"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    logits = x.ravel() @ theta["dense"] * theta["scale"] + theta["bias"]
    return jax.nn.log_softmax(logits)


THETA = {
    "wide": jnp.zeros((5, 5, 3, 32)),
    "deep": jnp.zeros((3, 3, 32, 512)),
    "dense": jnp.zeros((2048, 1000)),
    "scale": jnp.zeros(1000),
    "bias": jnp.zeros(1000),
}
X = jnp.zeros((28, 28, 3))


def test_each_layer_gets_what_suits_it():
    plan = auto(net, THETA, X, rank=512)
    names = {path: sketch.name for path, sketch in plan.sketches.items()}
    assert names == {
        "wide": "count_sketch",  # many positions: the sum is small
        "deep": "tensor_sketch",
        "dense": "tensor_sketch",
        "scale": "count_sketch",
        "bias": "count_sketch",
    }
    small = auto(net, THETA, X, rank=2400)
    assert small.sketches["wide"].name == "balanced_fold"
    assert "kept exactly" in small.reasons["wide"]


@pytest.mark.parametrize("rank", [1, 16, 512, 65536])
def test_what_is_chosen_costs_least_for_its_error_and_is_never_kronecker(rank):
    plan = auto(net, THETA, X, rank=rank)
    bounds = {"count_sketch": 2, "tensor_sketch": 6, "khatri_rao": 8}
    for path, (t, m, n) in {
        "wide": (784, 75, 32),
        "deep": (4, 288, 512),
        "dense": (1, 2048, 1000),
    }.items():
        chosen = plan.sketches[path]
        assert chosen.rank == rank
        if THETA[path].size <= rank:
            assert chosen.name == "balanced_fold"
            continue
        own = chosen.cost(t, m, n) * bounds[chosen.name]
        for factory, bound in ((count_sketch, 2), (tensor_sketch, 6), (khatri_rao, 8)):
            assert own <= factory(rank=rank).cost(t, m, n) * bound


def test_it_prints_a_line_a_leaf():
    lines = str(auto(net, THETA, X, rank=512)).splitlines()
    assert [line.split()[0] for line in lines] == sorted(THETA)
    assert "convolution T=784 m=75 n=32" in lines[-1]
    assert "used by add" in lines[0]


def test_a_choice_may_be_overruled():
    own = gaussian(rank=8)
    plan = auto(net, THETA, X, rank=8, sketches={"bias": own})
    assert plan.sketches["bias"] is own and plan.reasons["bias"] == "given"
    with pytest.raises(ValueError, match=r"no leaf \['head'\]; expected paths of"):
        auto(net, THETA, X, rank=8, sketches={"head": own})
    with pytest.raises(ValueError, match=r"of rank 16, got \{'bias': 8\}"):
        auto(net, THETA, X, rank=16, sketches={"bias": own})


def test_a_transposed_kernel_is_sketched_as_it_lies():
    theta = {"w": jnp.zeros((40, 30))}
    plan = auto(
        lambda t, x: jax.nn.log_softmax(t["w"] @ x), theta, jnp.zeros(30), rank=8
    )
    assert plan.sketches["w"].name == "count_sketch"
    assert "used transposed" in plan.reasons["w"]
