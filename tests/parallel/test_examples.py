"""Streamed images are read in batches, and give the bits that an array gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import STRATEGIES, Settings, make_strategy
from fkjax.acquisition.access import Withheld, restrict
from fkjax.base import Model, Strategy, Variables, View, no_tap
from fkjax.experiment import pool as pools
from fkjax.experiment.driver import Arrays, RoundState, make_driver, side_by_side
from fkjax.experiment.oracle import array_oracle
from fkjax.experiment.rounds import play
from fkjax.parallel.examples import Streamed, stream, take
from fkjax.parallel.mapping import map_examples
from fkjax.training.evaluation import predictions
from fkjax.training.fit import Schedule, fit
from fkjax.training.pretraining import pretrain
from tests.tiny import tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(60, dtype=np.int32) % 3
KEY = jax.random.key(0)


class Spy:
    """A fetch that notes what it was asked for."""

    def __init__(self):
        self.calls, self.then = [], []

    def __call__(self, ids, then):
        assert isinstance(ids, np.ndarray) and isinstance(then, np.ndarray)
        self.calls.append(ids.tolist())
        self.then.append(then.tolist())
        return PIXELS[ids]


@pytest.fixture
def spy():
    return Spy()


@pytest.fixture
def streamed(spy):
    return stream(spy, len(PIXELS), PIXELS.shape[1:])


def same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y, strict=True)


# As a set


def test_it_describes_itself_as_the_array_does(streamed, spy):
    for part, pixels in ((streamed, PIXELS), (streamed[5:9], PIXELS[5:9])):
        assert part.shape == pixels.shape and part.ndim == pixels.ndim
        assert part.dtype == pixels.dtype and len(part) == len(pixels)
    assert spy.calls == []


def test_a_part_of_a_part_is_that_of_the_array(streamed):
    rows, few = np.array([7, 3, 50, 4, 7]), np.array([4, 1, 2])
    part = streamed[rows][few]
    assert isinstance(part, Streamed)
    same(take(part, jnp.arange(3)), PIXELS[rows][few])
    inside = jax.jit(lambda images, few: take(images[few], jnp.array([1])))
    same(inside(streamed[rows], few), PIXELS[rows][few][1:2])


def test_all_at_once_is_refused(streamed):
    with pytest.raises(TypeError, match=r"take\(\) or map_examples\(\)"):
        np.asarray(streamed)


def test_other_images_of_a_source_compile_nothing_anew(streamed):
    traces = []

    @jax.jit
    def first(images):
        traces.append(images.shape)
        return take(images, jnp.array([0]))

    same(first(streamed[:20]), PIXELS[:1])
    same(first(streamed[20:40]), PIXELS[20:21])
    assert len(traces) == 1
    other = stream(lambda ids, then: 255 - PIXELS[ids], 60, PIXELS.shape[1:])
    same(first(other[:20]), 255 - PIXELS[:1])


# take and map_examples


def test_taking_is_one_call_that_says_what_comes_next(streamed, spy):
    part = streamed[np.arange(59, -1, -1)]
    images = jax.jit(take)(part, jnp.array([2, 0, 2]), jnp.array([5, -1, 6]))
    same(images, PIXELS[[57, 59, 57]])
    assert (spy.calls, spy.then) == ([[57, 59, 57]], [[54, 53]])
    same(take(streamed, jnp.array([1])), PIXELS[[1]])
    assert spy.then[1] == []


def test_taking_under_vmap_is_one_call(streamed, spy):
    rows = jnp.array([[0, 1, 2], [9, 8, 7]])
    same(jax.vmap(take, (None, 0))(streamed, rows), PIXELS[np.array(rows)])
    assert spy.calls == [[0, 1, 2, 9, 8, 7]]
    nexts = jnp.array([[1], [2]])
    images = jax.vmap(take, (None, None, 0))(streamed, rows[0], nexts)
    same(images, PIXELS[np.array([rows[0]] * 2)])


@pytest.mark.parametrize("size", [25, 60, 100])
def test_mapping_is_one_call_a_batch_in_order(streamed, spy, size):
    part = streamed[np.arange(60)[::-1]]
    weights = jnp.arange(60.0)

    def one(image, weight):
        return image.astype(jnp.float32).mean() * weight, image.max()

    got = map_examples(one, part, weights, batch_size=size)
    same(got, map_examples(one, jnp.asarray(PIXELS[::-1]), weights, batch_size=size))
    ids = list(range(59, -1, -1))
    batches = [ids[i : i + size] for i in range(0, 60, size)]
    if size < 60:  # the last is filled up
        batches[-1] += [0] * (size - len(batches[-1]))
    assert sorted(spy.calls) == sorted(batches)
    for asked, then in zip(spy.calls, spy.then, strict=True):
        i = batches.index(asked) + 1
        assert then == (batches[i] if i < len(batches) else [])


def test_a_large_batch_does_not_block(streamed):
    rows = jnp.arange(200_000) % 60
    total = jax.jit(lambda images, rows: take(images, rows).astype(jnp.int32).sum())
    expected = PIXELS[np.array(rows)].sum(dtype=np.int64)
    assert int(total(streamed, rows)) == expected.astype(np.int32)


# All that reads images


def dense(num_classes):
    """A model that compiles fast."""

    def init(key):
        w = jax.random.normal(key, (64, 10)) / 8
        return Variables({"fc1": w, "fc2": w[:10, :num_classes]})

    def apply(variables, images, tap=no_tap):
        x = images.reshape(-1, 64) / 255
        x = tap("fc1", jax.nn.relu(x @ variables.parameters["fc1"]))
        return x @ variables.parameters["fc2"]

    return Model(init, apply, ("fc1",), "fc2", (8, 8, 1), num_classes, (("fc1", 0.1),))


@pytest.fixture(scope="module")
def model():
    return dense(3)


@pytest.fixture(scope="module")
def variables(model):
    return model.init(KEY)


def test_a_fit_is_bit_for_bit_the_arrays(streamed, spy):
    model = tiny((8, 8, 1), 3)
    schedule, variables = Schedule(epochs=2, batch_size=7), jax.jit(model.init)(KEY)

    @jax.jit
    def run(images, num):
        return fit(
            KEY,
            model,
            variables,
            images,
            jnp.asarray(LABELS[:20]),
            num,
            schedule=schedule,
        )

    rows = np.arange(20) * 3
    same(run(streamed[rows], 17), run(jnp.asarray(PIXELS[rows]), 17))
    assert [len(ids) for ids in spy.calls] == [7] * 6  # of 17, three steps an epoch
    for step in (0, 1, 3, 4):  # each announces the next, within an epoch
        assert spy.then[step] == spy.calls[step + 1]
    assert spy.then[2] == spy.then[5] == []


def test_pretraining_is_bit_for_bit_the_arrays(streamed, spy):
    model = dense(4)
    start = jax.jit(model.init)(KEY)

    @jax.jit
    def run(images):
        schedule = Schedule(epochs=2, batch_size=20)
        return pretrain(KEY, model, start, images, schedule=schedule)

    same(run(streamed), run(jnp.asarray(PIXELS)))
    assert [len(ids) for ids in spy.calls] == [20] * 6
    assert spy.then[0] == spy.calls[1] and spy.then[2] == []


def test_predictions_are_bit_for_bit_the_arrays(streamed, spy):
    model = tiny((8, 8, 1), 3)
    variables = jax.jit(model.init)(KEY)
    run = jax.jit(lambda images: predictions(model, variables, images, batch_size=25))
    same(run(streamed), run(jnp.asarray(PIXELS)))
    assert sorted(len(set(ids)) for ids in spy.calls) == [10, 25, 25]


def arrays_of(images):
    parts = (slice(0, 30), slice(30, 42), slice(42, 45), slice(45, 60))
    return Arrays(
        *(jax.tree.map(jnp.asarray, images[part]) for part in parts),
        *(jnp.asarray(LABELS[part]) for part in parts[1:]),
    )


@pytest.mark.parametrize("name", ["fisher_nearest", "margin"])
def test_rounds_are_bit_for_bit_the_arrays(model, variables, streamed, spy, name):
    budget, traces = 4, []
    made = make_strategy(
        STRATEGIES[name], model, Settings(budget=budget, taps=("fc1",))
    )

    def query(key, view):
        traces.append(name)
        return made.query(key, view)

    strategy = Strategy(made.sees, jax.jit(query))
    schedule = Schedule(epochs=1, batch_size=3)
    driver = make_driver(
        model, schedule=schedule, capacity=2 * budget, selects_epoch=True
    )

    def rounds(images):
        records = play(
            driver,
            strategy,
            RoundState(KEY, pools.create(30), variables),
            arrays_of(images),
            array_oracle(LABELS[:30]),
            num_rounds=2,
            hidden_labels=lambda: None,
        )
        return [record._replace(seconds={}, peak_memory_mb={}) for _, record in records]

    got = rounds(streamed)
    assert len(traces) == 1  # for both rounds
    assert max(map(len, spy.calls)) == 30  # the pool in one batch of up to 100
    same(got, rounds(PIXELS))


def test_runs_side_by_side_read_their_own_images(model, variables, streamed):
    driver = side_by_side(
        make_driver(model, schedule=Schedule(epochs=1, batch_size=3), capacity=4)
    )

    def step(images):
        states = [
            RoundState(jax.random.key(i), pools.create(30), variables) for i in (0, 1)
        ]
        arrays = [arrays_of(part) for part in (images, images[::-1])]
        state, arrays = (
            jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
            for trees in (states, arrays)
        )
        indices = jnp.array([[3, 1, 4, 5], [9, 2, 6, 8]])
        state = driver.update(state, arrays, indices, jnp.zeros_like(indices))
        return state, driver.evaluate(state, arrays)

    same(step(streamed), step(PIXELS))


def test_withheld_images_are_not_read(streamed, spy, variables):
    nothing = jnp.zeros(60, bool)
    view = View(variables, streamed, nothing, streamed, LABELS, nothing, LABELS)
    strategy = Strategy(frozenset({"validation_labels"}), lambda key, view: view)
    seen = jax.jit(lambda view: view)(
        restrict(view, strategy, hidden_labels=lambda: LABELS)
    )
    assert isinstance(seen.validation, Withheld)
    same(take(seen.pool, jnp.array([3])), PIXELS[[3]])
    assert spy.calls == [[3]]
