"""Rounds on the digits: compiled once, reproducible, without use of hidden labels."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.acquisition import STRATEGIES, Settings, make_strategy
from fkjax.acquisition.access import LabelAccessError
from fkjax.base import Strategy, key_for
from fkjax.experiment import pool as pools
from fkjax.experiment.driver import Arrays, RoundState, make_driver
from fkjax.experiment.oracle import array_oracle
from fkjax.experiment.rounds import play, play_round
from fkjax.models import as_images, from_nnx
from fkjax.training.fit import Schedule, fit
from tests.tiny import tiny

BUDGET, ROUNDS = 5, 5
NUM_POOL = 60
SCHEDULE = Schedule(epochs=2)
# One of each kind: what they query, the tests of the acquisition functions say.
PLAYED = ("random", "fisher_nearest", "fisher_oracle", "variation_ratio", "vaal")

traces = collections.Counter()


@pytest.fixture(scope="module")
def model(digits):
    """A network that counts how often JAX traces it."""
    plain = tiny((8, 8, 1), 10, mean=digits.mean, std=digits.std)

    def apply(*args, **kwargs):
        traces["apply"] += 1
        return plain.apply(*args, **kwargs)

    return plain._replace(apply=apply)


@pytest.fixture(scope="module")
def hidden(digits_splits):
    rows = np.random.default_rng(0).permutation(len(digits_splits.pool.ids))
    return rows[:NUM_POOL], digits_splits.pool.labels[rows[:NUM_POOL]]


@pytest.fixture(scope="module")
def arrays(digits_splits, hidden):
    pool, validation, tuning, test = digits_splits[:4]
    return Arrays(
        *map(
            jnp.asarray,
            (
                pool.images[hidden[0]],
                validation.images[:40],
                tuning.images[:20],
                test.images[:50],
                validation.labels[:40],
                tuning.labels[:20],
                test.labels[:50],
            ),
        )
    )


@pytest.fixture(scope="module")
def driver(model):
    return make_driver(model, schedule=SCHEDULE, capacity=ROUNDS * BUDGET)


@pytest.fixture(scope="module")
def start(model):
    variables = jax.jit(model.init)(jax.random.key(0))
    return RoundState(jax.random.key(3), pools.create(NUM_POOL), variables)


@pytest.fixture(scope="module")
def predict(model):
    """Predicts the whole batch at once, unlike `evaluation`."""
    apply = jax.jit(model.apply)
    return lambda variables, images: np.asarray(apply(variables, images)).argmax(1)


@pytest.fixture(scope="module")
def strategy(model):
    @functools.cache
    def make(name):
        settings = Settings(budget=BUDGET, taps=("conv1", "fc1"), num_steps=5)
        made = make_strategy(STRATEGIES[name], model, settings)
        return made._replace(query=jax.jit(made.query))

    return make


@pytest.fixture(scope="module")
def rounds(driver, strategy, start, arrays, hidden):
    """`rounds(name)`: states and records of all rounds, and traces after each."""

    @functools.cache
    def rounds(name, again=0):
        del again
        state, states, records, counts = start, [start], [], []
        for _ in range(ROUNDS):
            state, record = play_round(
                driver,
                strategy(name),
                state,
                arrays,
                array_oracle(hidden[1]),
                hidden_labels=lambda: jnp.asarray(hidden[1]),
            )
            states.append(state)
            records.append(record)
            counts.append(traces["apply"])
        return states, records, counts

    return rounds


@pytest.mark.parametrize("name", PLAYED)
def test_all_rounds_run_what_the_first_compiled(name, rounds):
    _, _, counts = rounds(name)
    assert counts[0] > 0 and len(set(counts[1:])) == 1


def test_strategies_share_the_compiled_update(rounds, driver, start, arrays):
    for name in PLAYED:
        rounds(name)
    before = traces["apply"]
    driver.update(start, arrays, jnp.arange(BUDGET), jnp.zeros(BUDGET, jnp.int32))
    driver.evaluate(start, arrays)
    driver.mistakes(start, arrays)
    assert traces["apply"] == before > 0
    assert driver.update._cache_size() <= 2


@pytest.mark.parametrize("name", PLAYED)
def test_a_replay_is_the_same_bit_for_bit(name, rounds):
    first, again = rounds(name), rounds(name, again=1)
    for state, other in zip(first[0], again[0], strict=True):
        jax.tree.map(np.testing.assert_array_equal, state[1:], other[1:])
        assert state.key == other.key == first[0][0].key
    for record, other in zip(first[1], again[1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, record[:4], other[:4])


@pytest.mark.parametrize("name", PLAYED)
def test_the_state_holds_the_history_of_the_queries(name, rounds, hidden):
    states, records, _ = rounds(name)
    queried_at = np.full(NUM_POOL, -1)
    for number, (state, record) in enumerate(zip(states[1:], records, strict=True)):
        assert (queried_at[record.query.indices] == -1).all()
        assert len(set(record.query.indices.tolist())) == BUDGET
        queried_at[record.query.indices] = number
        np.testing.assert_array_equal(state.pool.queried_at, queried_at)
        known = np.where(queried_at >= 0, hidden[1], -1)
        np.testing.assert_array_equal(state.pool.label, known)
        np.testing.assert_array_equal(record.labels, hidden[1][record.query.indices])
        assert int(state.pool.round) == number + 1
    assert (queried_at >= 0).sum() == ROUNDS * BUDGET


def test_each_round_trains_on_from_the_last_and_draws_anew(rounds):
    states, records, _ = rounds("random")
    heads = [state.variables.parameters["fc2"]["kernel"] for state in states]
    for before, after in zip(heads, heads[1:], strict=False):
        assert 1e-4 < abs(after - before).max() < 1
    lots = [tuple(record.query.indices.tolist()) for record in records]
    assert len(set(lots)) == ROUNDS


def test_each_round_queries_with_a_key_of_its_own(
    driver, strategy, start, arrays, hidden
):
    keys = []

    def query(key, view):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return strategy("random").query(key, view)

    options = {"num_rounds": 3, "hidden_labels": alarm}
    honest = Strategy(frozenset(), query)
    list(play(driver, honest, start, arrays, array_oracle(hidden[1]), **options))
    assert len(set(keys)) == 3


def test_the_record_is_of_the_model_after_training(rounds, arrays, predict):
    states, records, _ = rounds("fisher_nearest")
    for before, after, record in zip(states, states[1:], records, strict=False):
        predicted = predict(after.variables, arrays.test_images)
        labels = np.asarray(arrays.test_labels)
        assert record.confusion.sum() == 50
        assert np.trace(record.confusion) == (predicted == labels).sum()
        np.testing.assert_array_equal(
            record.confusion.sum(1), np.bincount(labels, minlength=10)
        )
        wrong = predict(before.variables, arrays.validation)
        assert record.num_mistakes == (wrong != arrays.validation_labels).sum()
        assert set(record.seconds) == {"query", "oracle", "training", "evaluation"}
    assert all(record.num_mistakes == -1 for record in rounds("random")[1])


def test_training_on_the_validation_set_is_training_on_both(model, arrays, start):
    driver = make_driver(
        model, schedule=SCHEDULE, capacity=2 * BUDGET, trains_on_validation=True
    )
    asked, labels = jnp.array([3, 1, 8, 20, 11]), jnp.array([1, 2, 3, 4, 5])
    state = driver.update(start, arrays, asked, labels)
    order = np.argsort(asked)
    images = [arrays.validation, arrays.pool[asked[order]]]
    known = [arrays.validation_labels, labels[order]]
    spare = (BUDGET,)  # room for a round that has not run yet
    expected = jax.jit(lambda *data: fit(*data, schedule=SCHEDULE), static_argnums=1)(
        key_for(start.key, "training", 0),
        model,
        start.variables,
        jnp.concatenate([*images, jnp.zeros(spare + (8, 8, 1), jnp.uint8)]),
        jnp.concatenate([*known, jnp.zeros(spare, jnp.int32)]),
        jnp.int32(40 + BUDGET),
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        state.variables,
        expected,
    )
    assert (state.pool.queried_at >= 0).sum() == BUDGET


def test_play_is_play_round_over_and_over(
    driver, strategy, start, arrays, hidden, rounds
):
    played = play(
        driver,
        strategy("fisher_nearest"),
        start,
        arrays,
        array_oracle(hidden[1]),
        num_rounds=3,
        hidden_labels=lambda: jnp.asarray(hidden[1]),
    )
    for (_, record), other in zip(played, rounds("fisher_nearest")[1][:3], strict=True):
        jax.tree.map(np.testing.assert_array_equal, record[:4], other[:4])


def alarm():
    raise AssertionError("the hidden labels were fetched")


@pytest.mark.parametrize("name", [n for n in PLAYED if n != "fisher_oracle"])
def test_the_oracle_is_asked_once_a_round_by_positions_alone(
    name, driver, strategy, start, arrays, hidden
):
    asked = []

    def person(*args, **kwargs):
        asked.append((args, kwargs))
        return hidden[1][args[0]]

    _, record = play_round(
        driver, strategy(name), start, arrays, person, hidden_labels=alarm
    )
    (((indices,), kwargs),) = asked
    assert not kwargs and isinstance(indices, np.ndarray)
    assert indices.shape == (BUDGET,) and np.issubdtype(indices.dtype, np.integer)
    np.testing.assert_array_equal(indices, record.query.indices)


def test_only_fisher_oracle_fetches_the_hidden_labels(driver, strategy, start, arrays):
    with pytest.raises(AssertionError, match="hidden labels were fetched"):
        play_round(
            driver, strategy("fisher_oracle"), start, arrays, None, hidden_labels=alarm
        )


def test_what_the_oracle_says_is_trained_on_whatever_the_truth(
    driver, strategy, start, arrays
):
    state, record = play_round(
        driver,
        strategy("random"),
        start,
        arrays,
        lambda indices: np.full(len(indices), 7),
        hidden_labels=alarm,
    )
    assert (record.labels == 7).all()
    assert (state.pool.label[record.query.indices] == 7).all()
    assert record.confusion[:, 7].sum() > 25  # it has learned to predict 7


def test_a_strategy_that_reads_the_hidden_labels_gets_nothing(
    driver, strategy, start, arrays
):
    honest = strategy("random")

    def query(key, view):
        return honest.query(key, view)._replace(targets=view.pool_labels[:BUDGET])

    cheat = Strategy(frozenset({"validation_labels"}), query)
    with pytest.raises(LabelAccessError, match="pool_labels"):
        play_round(driver, cheat, start, arrays, alarm, hidden_labels=alarm)


@pytest.mark.parametrize(
    "name", "feature_match fisher_argmax fisher_nearest fisher_oracle".split()
)
def test_without_a_mistake_the_round_is_filled_at_random(
    name, driver, strategy, start, arrays, hidden, predict
):
    predicted = predict(start.variables, arrays.validation)
    faultless = arrays._replace(validation_labels=jnp.asarray(predicted, jnp.int32))
    _, record = play_round(
        driver,
        strategy(name),
        start,
        faultless,
        array_oracle(hidden[1]),
        hidden_labels=lambda: jnp.asarray(hidden[1]),
    )
    assert record.num_mistakes == 0
    assert len(set(record.query.indices.tolist())) == BUDGET
    assert np.isnan(record.query.scores).all() and (record.query.targets == -1).all()


def test_the_epoch_that_is_best_on_the_selection_images_is_kept(
    model, driver, start, arrays, predict
):
    """Trained on wrong labels only, a model gets worse with each epoch."""
    indices = jnp.arange(BUDGET * ROUNDS)
    predicted = predict(start.variables, arrays.pool)
    wrong = jnp.asarray((predicted[indices] + 1) % 10, jnp.int32)
    arrays = arrays._replace(
        selection_images=arrays.pool,
        selection_labels=jnp.asarray(predicted, jnp.int32),
    )

    def make(**options):
        return make_driver(model, capacity=BUDGET * ROUNDS, **options)

    kept, first, last = (
        made.update(start, arrays, indices, wrong).variables
        for made in (
            make(schedule=SCHEDULE, selects_epoch=True),
            make(schedule=SCHEDULE._replace(epochs=1)),
            driver,
        )
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), kept, first
    )
    first, last = (v.parameters["fc2"]["kernel"] for v in (first, last))
    assert abs(last - first).max() > 1e-3


class Text(nnx.Module):
    """A network of tokens and a mask that calls a tap."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(9, 6, rngs=rngs)
        self.fc = nnx.Linear(6, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, batch, tap):
        x = jnp.where(batch["mask"][..., None], self.embed(batch["tokens"]), 0)
        return tap("logits", self.head(nnx.relu(tap("fc", self.fc(x.sum(1))))))


@pytest.mark.integration
def test_a_round_of_tokens_and_masks():
    """The class is that of the tokens that the mask shows; the others are noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    mask = rng.random((90, 5)) < 0.5
    shown = labels[:, None] + 3 * rng.integers(0, 3, (90, 5))
    texts = {"tokens": np.where(mask, shown, rng.integers(0, 9, (90, 5))), "mask": mask}
    model = from_nnx(Text, taps=["fc"], head="head", num_classes=3, example=texts)
    images = jnp.asarray(as_images(texts))
    parts = [images[:40], images[40:60], images[60:61], images[60:]]
    arrays = Arrays(
        *parts, *map(jnp.asarray, (labels[40:60], labels[60:61], labels[60:]))
    )
    schedule = Schedule(epochs=60, learning_rate=0.1, batch_size=10)
    driver = make_driver(model, schedule=schedule, capacity=30)
    settings = Settings(budget=30, taps=("fc",))
    strategy = make_strategy(STRATEGIES["fisher_nearest"], model, settings)
    variables = jax.jit(model.init)(jax.random.key(0))
    state = RoundState(jax.random.key(1), pools.create(40), variables)
    state, record = play_round(
        driver,
        strategy,
        state,
        arrays,
        array_oracle(labels[:40]),
        hidden_labels=lambda: jnp.asarray(labels[:40]),
    )
    confusion = np.asarray(record.confusion)
    assert np.trace(confusion) > 0.6 * confusion.sum()
