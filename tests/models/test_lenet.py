"""Tests of the LeNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import Model
from fkjax.models import MODELS, lenet
from tests.numpy_lenet import lenet_descriptors

SHAPES = [(28, 28, 1), (8, 8, 1), (32, 32, 3)]


def statistics(channels):
    return {"mean": (0.1, 0.2, 0.3)[:channels], "std": (0.5, 0.6, 0.7)[:channels]}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def made(request):
    shape = request.param
    model = lenet(shape, 7, **statistics(shape[2]))
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    model = model._replace(apply=jax.jit(model.apply, static_argnums=2))
    return model, jax.jit(model.init)(jax.random.key(1)), images


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_mnist_has_the_papers_number_of_parameters():
    assert count(lenet((28, 28, 1), 10)) == 21_840
    layers = [5 * 5 * 1 * 10 + 10, 5 * 5 * 10 * 20 + 20, 320 * 50 + 50, 50 * 10 + 10]
    assert sum(layers) == 21_840


@pytest.mark.parametrize(
    ("shape", "flat"),
    [((8, 8, 1), 2 * 2), ((32, 32, 3), 5 * 5), ((4, 5, 1), 1), ((16, 20, 1), 2)],
)
def test_other_sizes_change_the_first_and_the_flattened_layer_only(shape, flat):
    convolutions = 25 * shape[2] * 10 + 10 + 25 * 10 * 20 + 20
    dense = flat * 20 * 50 + 50 + 50 * 10 + 10
    assert count(lenet(shape, 10)) == convolutions + dense


def test_taps_are_called_in_order_with_their_channels(made):
    model, variables, images = made
    seen = {}

    def tap(name, activation):
        seen[name] = activation.shape
        return activation

    logits = model.apply(variables, images, tap)
    assert logits.shape == (3, 7)
    assert tuple(seen) == model.taps == ("conv1", "conv2", "fc1", "logits")
    assert [shape[-1] for shape in seen.values()] == [10, 20, 50, 7]
    assert all(shape[0] == 3 for shape in seen.values())
    assert [len(shape) for shape in seen.values()] == [4, 4, 2, 2]


def test_what_a_tap_adds_enters_the_logits(made):
    model, variables, images = made
    logits = model.apply(variables, images)
    for name in model.taps:
        tapped = model.apply(
            variables, images, lambda n, a, name=name: a + 0.5 * (n == name)
        )
        assert abs(tapped - logits).max() > 1e-3


def test_an_example_does_not_depend_on_the_others(made):
    model, variables, images = made
    together = np.asarray(model.apply(variables, images))
    alone = jnp.concatenate([model.apply(variables, x[None]) for x in images])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)
    permuted = model.apply(variables, images[[2, 0, 1]])
    np.testing.assert_allclose(permuted, together[[2, 0, 1]], rtol=1e-5, atol=1e-6)


def test_bytes_are_normalised_by_channel(made):
    model, variables, images = made
    channels = images.shape[-1]
    plain = lenet(model.image_shape, 7, mean=[0] * channels, std=[1] * channels)
    mean, std = statistics(channels).values()
    by_hand = 255 * (images.astype(np.float32) / 255 - mean) / std
    np.testing.assert_allclose(
        model.apply(variables, images),
        plain.apply(variables, by_hand),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_array_equal(
        model.apply(variables, images), model.apply(variables, images.astype(float))
    )


def test_the_forward_pass_is_numpys():
    model = lenet((28, 28, 1), 10)
    variables = jax.jit(model.init)(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    for image in images:
        x = (image[:, :, 0] / 255 - 0.1307) / 0.3081
        expected, *_ = lenet_descriptors(
            jax.tree.map(np.float64, variables.parameters), x, 0
        )
        actual = jax.nn.log_softmax(model.apply(variables, image[None])[0])
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_initialization_follows_the_key(made):
    model, variables, _ = made
    init = jax.jit(model.init)
    again = init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    other = init(jax.random.key(2))
    kernel, another = (v.parameters["fc1"]["kernel"] for v in (variables, other))
    assert (kernel != another).any()


def test_the_head_is_the_layer_of_the_classes(made):
    model, variables, _ = made
    assert variables.parameters[model.head]["kernel"].shape == (50, 7)
    assert isinstance(model, Model) and model.num_classes == 7


@pytest.mark.parametrize("shape", [(3, 8, 1), (8, 3, 1), (1, 1, 1)])
def test_images_below_4_x_4_are_refused(shape):
    with pytest.raises(ValueError, match="4 x 4 or larger"):
        lenet(shape, 10)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_registry_is_made_alike(name):
    architecture = MODELS[name]
    model = architecture.make(
        (8, 8, 1),
        3,
        mean=(0.5,),
        std=(0.5,),
        conv_dropout=architecture.conv_dropout,
        dense_dropout=0.125,
    )
    assert set(architecture.taps) <= set(model.taps)
    rates = dict(model.dropout)
    assert set(rates) < set(model.taps) and max(rates.values()) >= 0.125
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.eval_shape(model.apply, shapes, images).shape == (2, 3)
    assert model.head in shapes.parameters and model.taps[-1] == "logits"
