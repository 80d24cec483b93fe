"""fkjax runs where JAX refuses to broadcast to more axes: traced, not computed."""

import jax
import jax.numpy as jnp
import pytest

from fkjax.acquisition import STRATEGIES, Settings, access, make_strategy
from fkjax.base import View
from fkjax.fisher import gram, metric, vectors
from fkjax.fisher.factors import Factors
from fkjax.models import MODELS
from fkjax.models.ensemble import ensemble
from fkjax.sketch.embedding import embed, embed_all_classes, predicted, sampled
from fkjax.sketch.planner import auto
from fkjax.sketch.projection import project
from fkjax.training import evaluation, fit, pretraining
from tests.acquisition.outputs import GREEDY
from tests.sketches import SHAPE, every_sketch

BUDGET = 8
# Those that share one query are computed, not only traced, by `test_complement.py`.
EACH = [name for name in STRATEGIES if name not in GREEDY[1:]]


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"):
        yield


def shape(*axes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(axes, dtype)


def made(name):
    architecture = MODELS[name]
    model = architecture.make(
        (32, 32, 3),
        5,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        conv_dropout=0.25,
        dense_dropout=0.5,
    )
    return model, architecture.taps


IMAGES, LABELS = shape(20, 32, 32, 3, dtype=jnp.uint8), shape(20, dtype=jnp.int32)


@pytest.mark.parametrize("name", EACH)
def test_strategies(name):
    model, taps = made("lenet")
    strategy = make_strategy(
        STRATEGIES[name], model, Settings(taps=taps, budget=BUDGET)
    )
    is_so = shape(20, dtype=bool)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    view = View(variables, IMAGES, is_so, IMAGES, LABELS, is_so, LABELS)
    seen = access.restrict(view, strategy, hidden_labels=lambda: LABELS)
    query = jax.eval_shape(strategy.query, jax.random.key(0), seen)
    assert query.indices.shape == (BUDGET,)


@pytest.mark.parametrize("name", ["lenet", "resnet10"])
@pytest.mark.parametrize("size", [None, 2])
def test_training(name, size):
    model, _ = made(name)
    model = model if size is None else ensemble(model, size)

    def train(key, images, labels):
        schedule = fit.Schedule(epochs=2, weight_decay=0.1)
        variables = pretraining.pretrain(
            key, model, model.init(key), images, schedule=schedule
        )
        num = jnp.int32(7)
        variables = fit.fit(
            key, model, variables, images, labels, num, schedule=schedule
        )
        return evaluation.accuracy(model, variables, images, labels)

    assert jax.eval_shape(train, jax.random.key(0), IMAGES, LABELS).shape == ()


def test_embeddings():
    model, _ = made("lenet")

    def embeddings(key, images):
        log_probs_fn, theta = vectors.of_parameters(model, model.init(key))
        projection = project(auto(log_probs_fn, theta, images[0], rank=64).sketches)
        given = (log_probs_fn, theta, images)
        state = projection.init(key, theta)
        return (
            embed(*given, predicted, projection, state),
            embed(*given, sampled(key), projection, state, batch_size=3),
            embed_all_classes(*given, projection, state),
        )

    first, second, third = jax.eval_shape(embeddings, jax.random.key(0), IMAGES)
    assert first.shape == second.shape == (20, 64) and third.shape == (20, 5, 64)


@every_sketch
def test_sketches(sketch):
    def both(x, a, d):
        state = sketch.init(jax.random.key(0), SHAPE)
        product = sketch.apply_factors(state, a, d) if sketch.apply_factors else x
        return sketch.apply(state, x), sketch.variance(x, x), product

    sketched, *_ = jax.eval_shape(both, shape(*SHAPE), shape(6, 4), shape(6, 3))
    assert sketched.shape == (sketch.rank,)


@pytest.mark.parametrize("positions", [(), (5,)])
@pytest.mark.parametrize("name", ["kfac", "eigenvalue_corrected"])
def test_metrics_and_grams_of_factors(name, positions):
    def whitened(factors):
        found = getattr(metric, name)(damping=0.1)
        return found.whiten(found.fit(factors), factors)

    def product(factors):
        return gram.gram(factors, factors, has_bias=True)

    factors = {"fc": Factors(shape(7, *positions, 4), shape(7, *positions, 3))}
    jax.eval_shape(whitened, factors)
    assert jax.eval_shape(product, factors).shape == (7, 7)


@pytest.mark.parametrize("name", ["diagonal", "low_rank"])
def test_metrics_of_vectors(name):
    def whitened(vectors):
        found = getattr(metric, name)(damping=0.1)
        return found.whiten(found.fit(vectors), vectors)

    assert jax.eval_shape(whitened, shape(5, 8)).shape == (5, 8)
