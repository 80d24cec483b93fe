"""The first member of an ensemble equals the model alone; the other members differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.pseudo_label import given
from fkjax.acquisition.uncertainty import stochastic_log_probs
from fkjax.base import log_probs
from fkjax.fisher.descriptors import descriptor
from fkjax.models.ensemble import each_member, ensemble
from fkjax.training import evaluation, fit, pretraining
from tests.tiny import tiny

MODEL = tiny((8, 8, 1), 4)
SCHEDULE = fit.Schedule(epochs=2, batch_size=5)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 4, 20))


@pytest.fixture(scope="module")
def fitted(data):
    """The trained variables of the model and of ensembles of one and three members."""
    images, labels = data

    def learn(model):
        variables = pretraining.pretrain(
            KEY, model, model.init(KEY), images, schedule=SCHEDULE
        )
        return fit.fit(
            KEY, model, variables, images, labels, jnp.int32(18), schedule=SCHEDULE
        )

    return {
        size: jax.jit(lambda model=model: learn(model))()
        for size, model in {
            None: MODEL,
            1: ensemble(MODEL, 1),
            3: ensemble(MODEL, 3),
        }.items()
    }


def assert_close(tree, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), tree, expected
    )


def member(variables, i):
    return jax.tree.map(lambda leaf: leaf[i], variables)


@pytest.mark.parametrize("size", [1, 3])
def test_the_first_member_is_the_model_alone(fitted, size):
    assert_close(member(fitted[size], 0), fitted[None])


def test_the_members_differ(fitted):
    kernel = fitted[3].parameters["fc2"]["kernel"]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(kernel[i] - kernel[j]).max() > 0.01


def test_its_probabilities_are_the_members_mean(fitted, data):
    image = data[0][0]
    one = jax.jit(lambda variables: log_probs(MODEL, variables, image))
    each = [np.exp(one(member(fitted[3], i))) for i in range(3)]
    of_all = jax.jit(lambda variables: log_probs(ensemble(MODEL, 3), variables, image))
    mean = np.exp(of_all(fitted[3]))
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-5)
    assert abs(each[0] - each[1]).max() > 1e-3


def test_an_ensemble_of_one_predicts_what_the_model_does(fitted, data):
    predictions = jax.jit(evaluation.predictions, static_argnums=0)
    one = predictions(ensemble(MODEL, 1), fitted[1], data[0])
    alone = predictions(MODEL, fitted[None], data[0])
    np.testing.assert_array_equal(one, alone)


def test_every_member_makes_its_own_passes(fitted, data):
    image = data[0][0]
    draw = jax.jit(stochastic_log_probs, static_argnums=1, static_argnames="num_passes")
    passes = draw(KEY, ensemble(MODEL, 3), fitted[3], image, num_passes=5)
    assert passes.shape == (15, 4)
    alone = draw(KEY, MODEL, fitted[None], image, num_passes=5)
    np.testing.assert_allclose(passes[:5], alone, atol=1e-5)
    assert len(np.unique(np.asarray(passes).round(5), axis=0)) == 15


def test_side_by_side_is_one_after_the_other(fitted, data):
    """Compares the two implementations of `each_member`."""

    def scores(key, variables):
        noise = jax.random.normal(key, (4,))
        return MODEL.apply(variables, data[0][:2]) + noise[None]

    seen = []

    def spy(key, variables):
        seen.append(key)
        return scores(key, variables)

    in_turn = each_member(spy, KEY, fitted[3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "tpu")
        side_by_side = each_member(scores, KEY, fitted[3])
    assert len(seen) == 1  # traced once, not once for each member
    np.testing.assert_allclose(in_turn, side_by_side, atol=1e-5)


def test_descriptors_are_of_the_first_member(fitted, data):
    image, label = data[0][0], jnp.int32(2)
    many, alone = (
        jax.jit(
            lambda variables, model=model: descriptor(
                model, variables, image, given(label), taps=("fc1",)
            )
        )(variables)
        for model, variables in (
            (ensemble(MODEL, 3), fitted[3]),
            (MODEL, fitted[None]),
        )
    )
    np.testing.assert_allclose(many.z["fc1"], alone.z["fc1"], atol=1e-6)
    # d log mean_e p_e / d a_0 = (p_0 / sum_e p_e) d log p_0 / d a_0
    p = [jnp.exp(log_probs(MODEL, member(fitted[3], i), image)[2]) for i in range(3)]
    np.testing.assert_allclose(
        many.g["fc1"], alone.g["fc1"] * p[0] / sum(p), rtol=1e-4, atol=1e-7
    )


def test_no_member_is_refused():
    with pytest.raises(ValueError, match="1 or more members, got 0"):
        ensemble(MODEL, 0)
