"""Compares training with a plain loop of gradient descent in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.base import Model, UserError, Variables, key_for, no_tap
from fkjax.models import from_nnx, lenet
from fkjax.training import evaluation, fit
from fkjax.training.fit import Schedule

FEATURES, CLASSES = 4, 3
KEY = jax.random.key(5)


def softmax_regression():
    def apply(variables, images, tap=no_tap):
        x = images.reshape(len(images), -1)
        head = variables.parameters["head"]
        return tap("logits", x @ head["w"] + head["b"][None])

    def init(key):
        w = 0.1 * jax.random.normal(key, (FEATURES, CLASSES))
        return Variables({"head": {"w": w, "b": jnp.zeros(CLASSES)}})

    return Model(init, apply, ("logits",), "head", (2, 2, 1), CLASSES)


MODEL = softmax_regression()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(11, 2, 2, 1)).astype(np.float32)
    return images, rng.integers(0, CLASSES, 11), MODEL.init(jax.random.key(1))


def numpy_gradient(w, b, x, labels):
    logits = x @ w + b
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    error = (p - np.eye(CLASSES)[labels]) / len(x)
    return x.T @ error, error.sum(axis=0)


def epoch_order(key, epoch, capacity, num_labeled):
    """Returns the labeled examples, sorted by the random number of each."""
    lot = jax.random.uniform(key_for(key, "order", epoch), (capacity,))
    return np.argsort(np.asarray(lot)[:num_labeled], kind="stable")


def numpy_fit(key, variables, images, labels, num_labeled, schedule):
    """Yields the weights and biases after each epoch."""
    theta = [np.float64(variables.parameters["head"][name]) for name in ("w", "b")]
    velocity = [np.zeros_like(t) for t in theta]
    x = np.float64(images.reshape(len(images), -1))
    for epoch in range(schedule.epochs):
        rate = schedule.learning_rate / 10 ** (epoch // schedule.decay_every)
        order = epoch_order(key, epoch, len(images), num_labeled)
        for start in range(0, num_labeled, schedule.batch_size):
            batch = order[start : start + schedule.batch_size]
            gradient = numpy_gradient(*theta, x[batch], labels[batch])
            for i, g in enumerate(gradient):
                g = g + schedule.weight_decay * theta[i]
                velocity[i] = schedule.momentum * velocity[i] + g
            theta = [t - rate * v for t, v in zip(theta, velocity, strict=True)]
        yield theta


compiled_fit = jax.jit(fit.fit, static_argnames=("model", "schedule", "score"))


def fitted(key, variables, images, labels, num_labeled, **options):
    result = compiled_fit(key, MODEL, variables, images, labels, num_labeled, **options)
    head = result.parameters["head"]
    return head["w"], head["b"]


SCHEDULES = {
    "plain": Schedule(4, 4, 0.5, momentum=0.0),
    "momentum": Schedule(4, 4, 0.5, momentum=0.9),
    "weight decay": Schedule(4, 4, 0.5, momentum=0.5, weight_decay=0.1),
    "two steps down": Schedule(6, 4, 1.0, momentum=0.5, decay_every=2),
    "one large batch": Schedule(3, 25, 0.5, momentum=0.5),
    "one by one": Schedule(2, 1, 0.1, momentum=0.5),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("num_labeled", [11, 6, 1])
def test_fit_is_plain_descent(schedule, num_labeled, data):
    """With 11 or 6 examples in batches of 4, the last batch is incomplete."""
    images, labels, variables = data
    key = jax.random.key(7)
    *_, expected = numpy_fit(key, variables, images, labels, num_labeled, schedule)
    actual = fitted(key, variables, images, labels, num_labeled, schedule=schedule)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_every_epoch_sees_each_example_once_in_an_order_of_its_own(data):
    """The order of an epoch is a permutation of the labeled examples."""
    orders = [epoch_order(jax.random.key(7), e, 11, 6).tolist() for e in range(4)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


def test_what_pads_the_arrays_is_never_read(data):
    images, labels, variables = data
    schedule, key = SCHEDULES["momentum"], jax.random.key(7)
    is_padding = np.arange(11) >= 6
    spoiled = np.where(is_padding[:, None, None, None], 1e6, images).astype(np.float32)
    other = np.where(is_padding, (labels + 1) % CLASSES, labels)
    clean = fitted(key, variables, images, labels, 6, schedule=schedule)
    dirty = fitted(key, variables, spoiled, other, 6, schedule=schedule)
    for ours, theirs in zip(dirty, clean, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


class NormedImages(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(FEATURES, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, x, tap, mask=None):
        mask = None if mask is None else mask[:, None]
        x = tap("norm", self.norm(x.reshape(len(x), -1), mask=mask))
        return tap("logits", self.head(x))


def normed(dropout):
    model = from_nnx(
        NormedImages,
        taps=["norm", "logits"],
        head="head",
        image_shape=(2, 2, 1),
        num_classes=CLASSES,
        mean=[0],
        std=[1 / 255],
    )
    return model._replace(dropout=(("norm", dropout),))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("num_labeled", [11, 6])
def test_running_statistics_are_those_of_the_batches_without_padding(
    num_labeled, dropout, data
):
    """The last batch of 4 is incomplete, and the padding holds large values."""
    images, labels, _ = data
    is_padding = (np.arange(11) >= num_labeled)[:, None, None, None]
    images = np.where(is_padding, 1e4, images).astype(np.float32)
    model, key, schedule = normed(dropout), jax.random.key(7), Schedule(3, 4, 0.5)
    start = model.init(jax.random.key(1))
    mean, var = np.zeros(FEATURES), np.ones(FEATURES)
    for epoch in range(3):
        order = epoch_order(key, epoch, 11, num_labeled)
        for begin in range(0, num_labeled, 4):
            batch = images.reshape(11, -1)[order[begin : begin + 4]]
            mean = 0.9 * mean + 0.1 * batch.mean(axis=0)
            var = 0.9 * var + 0.1 * batch.var(axis=0)
    trained = compiled_fit(
        key, model, start, images, labels, num_labeled, schedule=schedule
    )
    np.testing.assert_allclose(trained.statistics["norm"]["mean"], mean, atol=1e-4)
    np.testing.assert_allclose(trained.statistics["norm"]["var"], var, rtol=1e-4)
    for path in (("norm", "scale"), ("norm", "bias"), ("head", "kernel")):
        before, after = (v.parameters[path[0]][path[1]] for v in (start, trained))
        assert 1e-3 < abs(after - before).max() < 10


def test_the_kept_epoch_has_its_own_statistics(data):
    images, labels, _ = data
    model, key, schedule = normed(0.0), jax.random.key(7), Schedule(4, 4, 0.5)
    start = model.init(jax.random.key(1))
    kept, second = (
        compiled_fit(key, model, start, images, labels, 11, **options)
        for options in (
            {"schedule": schedule, "score": lambda v, epoch: -abs(epoch - 1.0)},
            {"schedule": schedule._replace(epochs=2)},
        )
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        kept,
        second,
    )


@pytest.mark.parametrize("capacity", [6, 7, 40])
def test_room_for_more_labels_does_not_change_the_weights(capacity, data):
    images, labels, variables = data
    schedule, key = SCHEDULES["momentum"], jax.random.key(7)
    expected = fitted(key, variables, images, labels, 6, schedule=schedule)
    room = np.arange(capacity) % 6
    actual = fitted(key, variables, images[room], labels[room], 6, schedule=schedule)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_with_nothing_labeled_nothing_is_learned(data):
    images, labels, variables = data
    untouched = fitted(
        jax.random.key(7), variables, images, labels, 0, schedule=Schedule(epochs=2)
    )
    np.testing.assert_array_equal(untouched[0], variables.parameters["head"]["w"])


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.1, 0.5, 0.2, 0.3], 1),
        ([0.1, 0.5, 0.5, 0.5], 1),
        ([0.9, 0.5, 0.2, 0.9], 0),
        ([-3.0, -2.0, -2.5, -1.0], 3),
        ([0.0, 0.0, 0.0, 0.0], 0),
    ],
)
def test_the_epoch_with_the_highest_score_is_kept_the_first_of_equals(
    values, kept, data
):
    images, labels, variables = data
    schedule = SCHEDULES["momentum"]
    key = jax.random.key(7)
    epochs = list(numpy_fit(key, variables, images, labels, 11, schedule))

    def score(variables, epoch):
        del variables
        return jnp.asarray(values)[epoch]

    actual = fitted(key, variables, images, labels, 11, schedule=schedule, score=score)
    np.testing.assert_allclose(actual[0], epochs[kept][0], rtol=1e-4, atol=1e-5)
    others = [e[0] for i, e in enumerate(epochs) if i != kept]
    assert min(abs(actual[0] - w).max() for w in others) > 1e-3


def test_the_score_is_given_the_weights_of_its_epoch(data):
    """Scores by the size of the head select the largest or the smallest one."""
    images, labels, variables = data
    schedule, key = SCHEDULES["momentum"], jax.random.key(7)
    epochs = list(numpy_fit(key, variables, images, labels, 11, schedule))
    sizes = [(w**2).sum() for w, _ in epochs]
    for sign, best in ((1, np.argmax(sizes)), (-1, np.argmin(sizes))):
        actual = fitted(
            key,
            variables,
            images,
            labels,
            11,
            schedule=schedule,
            score=lambda v, _, sign=sign: sign * (v.parameters["head"]["w"] ** 2).sum(),
        )
        np.testing.assert_allclose(actual[0], epochs[best][0], rtol=1e-4, atol=1e-5)


def test_cross_entropy_is_the_weighted_mean_of_minus_log_p(data):
    images, labels, variables = data
    log_p = np.asarray(jax.nn.log_softmax(MODEL.apply(variables, images)))
    losses = -log_p[np.arange(11), labels]
    for weights in (np.ones(11), (np.arange(11) < 6).astype(float)):
        np.testing.assert_allclose(
            fit.cross_entropy(variables, KEY, MODEL, images, labels, weights)[0],
            (losses * weights).sum() / weights.sum(),
            rtol=1e-5,
        )
    nothing, statistics = fit.cross_entropy(
        variables, KEY, MODEL, images, labels, np.zeros(11)
    )
    assert float(nothing) == 0 and statistics == {}


def test_a_lenet_learns_the_digits(digits):
    images, labels = digits.train_images[:150], digits.train_labels[:150]
    whole = {"conv_dropout": 0.0, "dense_dropout": 0.0}
    model = lenet((8, 8, 1), 10, mean=digits.mean, std=digits.std, **whole)
    start = jax.jit(model.init)(jax.random.key(0))
    trained = jax.jit(
        lambda variables: fit.fit(
            jax.random.key(1),
            model,
            variables,
            jnp.asarray(images),
            jnp.asarray(labels),
            jnp.int32(150),
            schedule=Schedule(epochs=40, decay_every=30),
        )
    )(start)

    @jax.jit
    def loss(variables):
        weights = jnp.ones(150)
        return fit.cross_entropy(variables, KEY, model, images, labels, weights)[0]

    assert loss(start) > 2 and loss(trained) < 0.5
    test = digits.test_images[:200], digits.test_labels[:200]
    assert float(evaluation.accuracy(model, trained, *test)) > 0.7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_variables_that_are_not_finite_are_refused(bad):
    fine = Variables({"a": {"w": np.ones((2, 3))}}, {"a": np.zeros(2)})
    fit.require_finite(fine, "training")
    for variables in (
        fine._replace(statistics={"a": np.array([0, bad])}),
        fine._replace(parameters={"a": {"w": np.array([[bad]])}}),
    ):
        assert fit.is_finite(fine) and not fit.is_finite(variables)
        with pytest.raises(UserError, match="round 3 led to NaN or infinity"):
            fit.require_finite(variables, "the training of round 3")
