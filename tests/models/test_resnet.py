"""Compares ResNets with the same networks in Linen, and tests their Fisher vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.pseudo_label import argmax, given
from fkjax.base import Variables, no_tap, path_of
from fkjax.fisher import capture, vectors
from fkjax.fisher import descriptors as descriptors_module
from fkjax.models import from_linen, resnet10, resnet18
from fkjax.training import fit, pretraining

C, WIDTH = 3, 4
STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
TAPS = ("stage1", "stage2", "stage3", "stage4", "pool", "logits")


def made(make=resnet10, shape=(16, 16, 3), **options):
    return make(shape, C, **{"width": WIDTH, **STATISTICS, **options})


def randomized(variables, seed=0):
    """Draws every leaf at random, so that no mean is zero and no variance is one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path_of(path).rsplit("/", 1)[1]
        noise = rng.normal(size=leaf.shape)
        if name == "kernel":
            noise /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            noise = np.exp(0.3 * noise)
        return jnp.asarray(noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def pictures(num, shape=(16, 16, 3), seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (num, *shape), dtype=np.uint8))


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def variables(model):
    return randomized(jax.eval_shape(model.init, jax.random.key(0)))


class Block(nn.Module):
    filters: int
    stride: int

    @nn.compact
    def __call__(self, x, norm):
        def conv(filters, size, stride, name):
            pad, strides = [(size // 2,) * 2] * 2, (stride, stride)
            shape = (size, size)
            return nn.Conv(filters, shape, strides, pad, use_bias=False, name=name)

        y = nn.relu(norm("norm1")(conv(self.filters, 3, self.stride, "conv1")(x)))
        y = norm("norm2")(conv(self.filters, 3, 1, "conv2")(y))
        if y.shape != x.shape:
            x = conv(self.filters, 1, self.stride, "shortcut")(x)
            x = norm("shortcut_norm")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    filters: int
    stride: int
    num_blocks: int

    @nn.compact
    def __call__(self, x, norm):
        for i in range(self.num_blocks):
            stride = self.stride if i == 0 else 1
            x = Block(self.filters, stride, name=f"block{i + 1}")(x, norm)
        return x


class LinenResNet(nn.Module):
    num_blocks: int
    large: bool

    @nn.compact
    def __call__(self, x, tap, mask=None):
        def norm(name):
            layer = nn.BatchNorm(mask is None, momentum=0.9, name=name)
            rows = None if mask is None else mask.reshape(-1, 1, 1, 1)
            return lambda x: layer(x, mask=rows)

        size, stride = (7, 2) if self.large else (3, 1)
        pad = [(size // 2,) * 2] * 2
        strides = (stride, stride)
        x = nn.Conv(WIDTH, (size, size), strides, pad, use_bias=False, name="stem")(x)
        x = nn.relu(norm("stem_norm")(x))
        if self.large:
            x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for i in range(4):
            filters, stride = WIDTH * 2**i, 1 if i == 0 else 2
            stage = Stage(filters, stride, self.num_blocks, name=f"stage{i + 1}")
            x = tap(f"stage{i + 1}", stage(x, norm))
        x = tap("pool", x.mean((1, 2)))
        return tap("logits", nn.Dense(C, name="head")(x))


NETS = [
    (resnet10, "cifar", (16, 16, 3)),
    (resnet10, "imagenet", (41, 33, 3)),
    pytest.param(*(resnet18, "cifar", (9, 12, 1)), marks=pytest.mark.integration),
]


@pytest.mark.parametrize(("make", "stem", "shape"), NETS)
def test_it_is_the_same_net_of_linen(make, stem, shape):
    """Compares inference and training, with the same variables and a padded batch."""
    scale = {"mean": (0.4,) * shape[2], "std": (0.3,) * shape[2]}
    ours = made(make, shape, stem=stem, **scale)
    theirs = from_linen(
        LinenResNet(1 if make is resnet10 else 2, stem == "imagenet"),
        taps=TAPS,
        head="head",
        image_shape=shape,
        num_classes=C,
        **scale,
    )
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    assert shapes == jax.eval_shape(theirs.init, jax.random.key(0))
    variables, images = randomized(shapes), pictures(5, shape)
    mask = jnp.array([True, True, False, True, True])

    def everything(model):
        @jax.jit
        def run(variables):
            seen = {}

            def tap(name, activation):
                seen[name] = activation
                return activation

            logits = model.apply(variables, images, tap)
            trained = model.apply_training(variables, images, no_tap, mask)
            return logits, seen, trained

        return run(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        everything(ours),
        everything(theirs),
    )


def test_taps_have_the_channels_and_sizes_of_their_stages(model, variables):
    seen = {}

    def tap(name, activation):
        seen[name] = activation.shape
        return activation

    jax.eval_shape(lambda x: model.apply(variables, x, tap), pictures(2))
    assert tuple(seen) == model.taps == TAPS
    sizes = [(16, 16, 4), (8, 8, 8), (4, 4, 16), (2, 2, 32), (32,), (C,)]
    assert list(seen.values()) == [(2, *size) for size in sizes]


@pytest.mark.parametrize(
    ("side", "stem", "kernel"),
    [
        (32, None, (3, 3)),
        (127, None, (3, 3)),
        (128, None, (7, 7)),
        (224, "cifar", (3, 3)),
        (32, "imagenet", (7, 7)),
    ],
)
def test_the_stem_follows_the_size_unless_it_is_named(side, stem, kernel):
    model = made(shape=(side, side, 3), stem=stem)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert shapes.parameters["stem"]["kernel"].shape == (*kernel, 3, WIDTH)


@pytest.mark.parametrize(
    ("make", "shape", "classes", "expected"),
    [
        (resnet10, (32, 32, 3), 10, 4_903_242),
        (resnet18, (32, 32, 3), 10, 11_173_962),
        (resnet18, (224, 224, 3), 1000, 11_689_512),
    ],
)
def test_the_number_of_parameters(make, shape, classes, expected):
    def convolutions(num_blocks, inputs, outputs):
        block = 9 * inputs * outputs + 2 * outputs + 9 * outputs**2 + 2 * outputs
        shortcut = (inputs != outputs) * (inputs * outputs + 2 * outputs)
        later = (num_blocks - 1) * (18 * outputs**2 + 4 * outputs)
        return block + shortcut + later

    num_blocks, size = (1 if make is resnet10 else 2), (3 if shape[0] == 32 else 7)
    widths = [64, 64, 128, 256, 512]
    stages = zip(widths, widths[1:], strict=False)
    total = size**2 * 3 * 64 + 128 + 513 * classes
    total += sum(convolutions(num_blocks, *stage) for stage in stages)
    model = make(shape, classes, **STATISTICS)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes.parameters))
    assert counted == total == expected


def test_fresh_kernels_have_kaimings_spread_and_norms_change_nothing():
    model = made(width=16)
    parameters, statistics = jax.jit(model.init)(jax.random.key(0))
    block = parameters["stage3"]["block1"]
    for name, fan_out in {"conv1": 9 * 64, "conv2": 9 * 64, "shortcut": 64}.items():
        kernel = block[name]["kernel"]
        assert abs(kernel.std() / np.sqrt(2 / fan_out) - 1) < 0.1
        assert abs(kernel.mean()) < 0.1 * kernel.std()
    np.testing.assert_array_equal(block["norm1"]["scale"], 1)
    np.testing.assert_array_equal(block["norm1"]["bias"], 0)
    for norm in (statistics["stem_norm"], statistics["stage4"]["block1"]["norm2"]):
        np.testing.assert_array_equal(norm["mean"], 0)
        np.testing.assert_array_equal(norm["var"], 1)


def test_examples_are_coupled_in_training_only(model, variables):
    """Differentiates the logits of one example with respect to another example."""
    images = pictures(2).astype(jnp.float32)

    def first(apply):
        return jax.jit(jax.grad(lambda x: apply(variables, x)[0].sum()))(images)

    alone = first(model.apply)
    assert abs(alone[0]).max() > 0
    np.testing.assert_array_equal(alone[1], 0)
    assert abs(first(lambda *a: model.apply_training(*a)[0])[1]).max() > 0


def test_fisher_vectors_in_factors_are_the_plain_ones():
    """The vectors do not depend on the other examples of the batch."""
    with jax.enable_x64(True):
        model = made(shape=(16, 12, 3), mean=(0, 0, 0), std=(1, 1, 1))
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        variables = jax.tree.map(jnp.float64, randomized(shapes))
        log_probs_fn, theta = vectors.of_parameters(model, variables)
        # Exact in float32, in which images are scaled.
        integers = np.random.default_rng(0).integers(-2, 3, (2, 16, 12, 3))
        images, labels = jnp.asarray(255.0 * integers), jnp.array([2, 0])
        plan = capture.plan(log_probs_fn, theta, images[0])
        factors = jax.jit(
            jax.vmap(
                lambda x, s: capture.gradient(
                    plan, capture.capture(log_probs_fn, theta, x, s)
                )
            )
        )(images[::-1], labels[::-1])
        plain = jax.jit(
            lambda: vectors.fisher_vectors(log_probs_fn, theta, images, labels)
        )()

        def close(path, actual, desired):
            scale = float(abs(desired).max())
            assert scale > 0, path_of(path)
            np.testing.assert_allclose(
                actual[::-1], desired, rtol=0, atol=1e-11 * scale, err_msg=path_of(path)
            )

        jax.tree_util.tree_map_with_path(close, factors, plain)
    kernels = {path for path in plan.paths if path.endswith("kernel")}
    assert set(plan.uses) == kernels and len(kernels) == 1 + 4 * 2 + 3 + 1
    assert {path.rsplit("/", 1)[1] for path in plan.rest} == {"scale", "bias"}
    shapes = {path: use[:4] for path, (use,) in plan.uses.items()}
    assert shapes["stem/kernel"] == ("convolution", 16 * 12, 27, 4)
    assert shapes["stage2/block1/conv1/kernel"] == ("convolution", 8 * 6, 36, 8)
    assert shapes["stage3/block1/shortcut/kernel"] == ("convolution", 4 * 3, 8, 16)
    assert shapes["stage4/block1/conv2/kernel"] == ("convolution", 2 * 2, 288, 32)
    assert shapes["head/kernel"] == ("dense", 1, 32, C)


def test_descriptors_of_the_last_taps_have_their_closed_form(model, variables):
    image, label = pictures(1)[0], 1
    d = jax.jit(
        lambda: descriptors_module.descriptor(
            model, variables, image, given(jnp.int32(label)), taps=model.taps
        )
    )()
    head = variables.parameters["head"]
    residual = np.eye(C)[label] - np.exp(d.log_probs)
    np.testing.assert_allclose(d.g["logits"], residual, atol=1e-5)
    np.testing.assert_allclose(d.g["pool"], head["kernel"] @ residual, atol=1e-5)
    np.testing.assert_allclose(d.g["stage4"], d.g["pool"] / 4, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(d.z["pool"], d.z["stage4"], rtol=1e-5)
    logits = d.z["pool"] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(d.z["logits"], logits, rtol=1e-4, atol=1e-5)
    assert [d.g[name].size for name in model.taps] == [4, 8, 16, 32, 32, C]
    assert all(abs(g).max() > 0 for g in d.g.values())


def test_descriptors_do_not_depend_on_the_other_examples(model, variables):
    images = pictures(3)

    @jax.jit
    @jax.vmap
    def descriptors(image):
        return descriptors_module.descriptor(
            model, variables, image, argmax(), taps=model.taps
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=1e-4, atol=1e-5),
        descriptors(images),
        descriptors(images[::-1]),
    )


def test_a_stage_alone_is_a_subset(model, variables):
    names = ["stage3", "head"]
    of_some, some = vectors.of_parameters(model, variables, names)
    of_all, everything = vectors.of_parameters(model, variables)
    image = pictures(1)[0]
    whole = jax.jit(lambda: vectors.fisher_vector(of_all, everything, image, 1))()
    part = jax.jit(lambda: vectors.fisher_vector(of_some, some, image, 1))()
    whole = {path_of(p): x for p, x in jax.tree_util.tree_leaves_with_path(whole)}
    assert set(part) == {path for path in whole if path.split("/")[0] in names}
    for path, leaf in part.items():
        np.testing.assert_allclose(leaf, whole[path], rtol=1e-3, atol=1e-5)


def test_a_resnet_is_passed_on_with_its_statistics(model, variables):
    fresh = randomized(variables, seed=1)
    passed = pretraining.transfer(model, variables, fresh)
    jax.tree.map(
        np.testing.assert_array_equal,
        passed,
        Variables(
            {**variables.parameters, "head": fresh.parameters["head"]},
            variables.statistics,
        ),
    )


@pytest.mark.integration
def test_a_resnet_learns_and_is_passed_on_with_its_statistics():
    """Trains on noise of three brightnesses, with an incomplete last batch."""
    model = made(shape=(8, 8, 1), mean=(0.5,), std=(0.25,))
    start = jax.jit(model.init)(jax.random.key(0))
    labels = jnp.arange(9) % C
    images = pictures(9, (8, 8, 1)) // 4 + (85 * labels).astype(jnp.uint8).reshape(
        -1, 1, 1, 1
    )
    schedule = fit.Schedule(epochs=15, batch_size=6)
    trained = jax.jit(
        lambda v: fit.fit(
            jax.random.key(1), model, v, images, labels, 9, schedule=schedule
        )
    )(start)

    def loss(variables):
        log_p = jax.nn.log_softmax(model.apply(variables, images))
        return -float(log_p[jnp.arange(9), labels].mean())

    assert loss(start) > 0.5 and loss(trained) < 0.5 * loss(start)
    moved = jax.tree.map(
        lambda a, b: float(abs(a - b).max()), trained.statistics, start.statistics
    )
    assert min(jax.tree.leaves(moved)) > 1e-3
    passed = pretraining.transfer(model, trained, start)
    jax.tree.map(
        np.testing.assert_array_equal,
        passed,
        Variables(
            {**trained.parameters, "head": start.parameters["head"]},
            trained.statistics,
        ),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "1 or more, got 0"), ({"stem": "mnist"}, "got 'mnist'")],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
