"""Tests every strategy on a model that is briefly trained on the digits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax import acquisition
from fkjax.acquisition import (
    STRATEGIES,
    Settings,
    access,
    feature_match,
    make_strategy,
    pseudo_label,
)
from fkjax.acquisition.perturbation import copies
from fkjax.base import Query, Strategy, View, key_for
from fkjax.fisher import descriptors
from fkjax.training import evaluation, fit
from tests.acquisition.outputs import GREEDY
from tests.tiny import TAPS, tiny

BUDGET = 8
NUM_POOL, NUM_VALIDATION = 90, 60
# 12 copies of 10 images at a time: the pool is a multiple of 10, so that only one loop
# is compiled.
SETTINGS = Settings(budget=BUDGET, taps=TAPS, num_passes=16, num_steps=5, num_copies=12)
UNCERTAINTY = "variation_ratio entropy bald mean_std margin least_confidence".split()
BLIND = ["random", "vaal", "badge", *UNCERTAINTY]  # do not use the validation set
BY_COPIES = {
    "fisher_covariance": pseudo_label.covariance,
    "fisher_information": pseudo_label.information,
    "fisher_information_diagonal": pseudo_label.information_diagonal,
}


def taps_of(name):
    """Returns few taps for `fisher_information`, which is slow for a large L."""
    return ("conv1",) if "information" in name else TAPS


OTHERS = (*BLIND, *GREEDY, "balance_oracle", "epig")
MATCHING = [name for name in STRATEGIES if name not in OTHERS]
# Of those that share one query, one is tested here; see `test_complement.py`.
EACH = [
    pytest.param(name, marks=pytest.mark.slow if name in GREEDY[1:] else ())
    for name in STRATEGIES
]


@pytest.fixture(scope="module")
def model(digits):
    return tiny((8, 8, 1), 10, mean=digits.mean, std=digits.std)


@pytest.fixture(scope="module")
def world(model, digits, digits_splits):
    """A view with misclassified validation examples, and the labels of the pool."""
    images, labels = digits.test_images[:60], digits.test_labels[:60]
    variables = jax.jit(
        lambda key: fit.fit(
            key,
            model,
            model.init(key),
            jnp.asarray(images),
            jnp.asarray(labels),
            jnp.int32(60),
            schedule=fit.Schedule(epochs=6),
        )
    )(jax.random.key(0))
    pool, validation = digits_splits.pool, digits_splits.validation
    rows = np.random.default_rng(0).permutation(len(pool.ids))[:NUM_POOL]
    validation_labels = jnp.asarray(validation.labels[:NUM_VALIDATION])
    validation = jnp.asarray(validation.images[:NUM_VALIDATION])
    predicted = evaluation.predictions(model, variables, validation)
    is_unlabeled = np.random.default_rng(1).random(NUM_POOL) < 0.7
    view = View(
        variables,
        jnp.asarray(pool.images[rows]),
        jnp.asarray(is_unlabeled),
        validation,
        validation_labels,
        predicted != validation_labels,
        jnp.zeros(0, jnp.int32),
    )
    assert BUDGET < int(view.validation_mistakes.sum()) < NUM_VALIDATION
    return view, jnp.asarray(pool.labels[rows])


@pytest.fixture(scope="module")
def ask(model):
    """`ask(name, (view, truth), key)`: returns the query; strategies compile once."""

    @functools.cache
    def strategy(name):
        made = make_strategy(
            STRATEGIES[name], model, dataclasses.replace(SETTINGS, taps=taps_of(name))
        )
        return made._replace(query=jax.jit(made.query))

    def ask(name, world, key=0):
        made, (view, truth) = strategy(name), world
        view = access.restrict(view, made, hidden_labels=lambda: truth)
        return jax.tree.map(np.asarray, made.query(jax.random.key(key), view))

    return ask


@pytest.fixture(scope="module")
def features(model, world):
    """The features z of the pool and of the validation set, read at the taps."""
    view, _ = world

    @jax.jit
    def activations(images):
        seen = {}
        model.apply(view.variables, images, seen.setdefault)
        return {name: seen[name] for name in TAPS}

    def pooled(images):
        return {
            name: np.asarray(a, np.float64).reshape(len(a), -1, a.shape[-1]).mean(1)
            for name, a in activations(images).items()
        }

    return pooled(view.pool), pooled(view.validation)


def correlations(pool, validation):
    """Computes R_z by `numpy.corrcoef`, layer by layer. Shape [N, M]."""
    total = np.zeros((NUM_POOL, NUM_VALIDATION))
    for name in TAPS:
        size = pool[name].shape[1]
        for i, a in enumerate(pool[name]):
            for j, b in enumerate(validation[name]):
                total[i, j] += np.corrcoef(a, b)[0, 1] * (size - 1)
    return total


@pytest.fixture(scope="module")
def r_z(features):
    return correlations(*features)


@pytest.mark.parametrize("name", EACH)
def test_a_query_is_distinct_and_unlabelled(name, ask, world):
    query = ask(name, world)
    assert isinstance(query, Query)
    assert all(field.shape == (BUDGET,) for field in query[:4])
    assert len(set(query.indices)) == BUDGET
    assert np.asarray(world[0].is_unlabeled)[query.indices].all()


@pytest.mark.parametrize("name", EACH)
def test_all_but_the_budget_labelled_leaves_no_choice(name, ask, world):
    view, truth = world
    left = np.array([3, 7, 20, 33, 34, 35, 60, 89])
    is_unlabeled = jnp.zeros(NUM_POOL, bool).at[left].set(True)
    query = ask(name, (view._replace(is_unlabeled=is_unlabeled), truth))
    assert set(query.indices) == set(left)


@pytest.mark.parametrize("name", EACH)
def test_the_key_decides(name, ask, world):
    first, again, other = (ask(name, world, key) for key in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    is_deterministic = name in ("margin", "least_confidence", *GREEDY)
    assert (first.indices != other.indices).any() != is_deterministic


def test_random_is_uniform_over_the_unlabelled(ask, world):
    is_unlabeled = np.asarray(world[0].is_unlabeled)
    counts = np.zeros(NUM_POOL)
    rounds = 400
    for key in range(rounds):
        query = ask("random", world, key)
        counts[query.indices] += 1
    assert (counts[~is_unlabeled] == 0).all()
    share = BUDGET / is_unlabeled.sum()
    spread = np.sqrt(rounds * share * (1 - share))
    assert abs(counts[is_unlabeled] - rounds * share).max() < 5 * spread
    assert (query.pseudo_labels == -1).all() and (query.targets == -1).all()
    assert np.isnan(query.scores).all()


READS = {
    "feature_match": {"validation", "validation_mistakes"},
    **{
        name: {"validation", "validation_mistakes", "validation_labels"}
        for name in ("fisher_argmax", "fisher_nearest", "fisher_nearest_joint")
    },
    **{
        name: {"validation", "validation_mistakes", "validation_labels"}
        for name in BY_COPIES
    },
    "fisher_oracle": {
        "validation",
        "validation_mistakes",
        "validation_labels",
        "pool_labels",
    },
    **{
        name: {"validation", "validation_labels", "labels", "correction"}
        for name in GREEDY
    },
    "balance_oracle": {"pool_labels"},
    "epig": {"validation"},
    **{name: {"correction"} for name in UNCERTAINTY},
} | {name: set() for name in ("random", "vaal", "badge")}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_declares_what_it_needs(name, model):
    """The other tests withhold all fields that are not declared."""
    assert make_strategy(STRATEGIES[name], model, SETTINGS).sees == READS[name]


PAIRS = [
    (name, field)
    for name, fields in READS.items()
    for field in sorted(fields)
    if name not in GREEDY[1:]  # which share one query
]


@pytest.mark.parametrize(("name", "field"), PAIRS)
def test_a_strategy_that_declares_less_is_refused_what_it_reads(
    name, field, model, world
):
    strategy = make_strategy(STRATEGIES[name], model, SETTINGS)
    fewer = strategy._replace(sees=strategy.sees - {field})
    view, truth = world
    kept = access.restrict(view, fewer, hidden_labels=lambda: truth)
    # `lax.map` raises an error for an empty pytree before the `Withheld` can.
    refused = (access.LabelAccessError, ValueError)
    with pytest.raises(refused, match=f"'{field}'|got no values"):
        jax.eval_shape(fewer.query, jax.random.key(0), kept)


@pytest.mark.parametrize("use", [jax.jit, lambda fn: fn], ids=["jit", "eager"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_no_strategy_can_cheat_without_saying_so(name, use, model, world):
    honest = make_strategy(STRATEGIES[name], model, SETTINGS)

    def query(key, view):
        wanted = jnp.where(view.is_unlabeled, view.pool_labels, -1)
        indices = jax.lax.top_k(wanted, BUDGET)[1]
        return Query(indices, indices, indices, indices)

    view, truth = world
    declared = honest.sees - {"pool_labels"}
    cheat = Strategy(declared, use(query))
    kept = access.restrict(view, cheat, hidden_labels=lambda: truth)
    with pytest.raises(access.LabelAccessError, match="pool_labels"):
        cheat.query(jax.random.key(0), kept)
    allowed = cheat._replace(sees=declared | {"pool_labels"})
    kept = access.restrict(view, allowed, hidden_labels=lambda: truth)
    cheat.query(jax.random.key(0), kept)


def test_fisher_nearest_assumes_the_label_of_the_highest_correlation(
    ask, model, world, r_z
):
    view, _ = world
    query = ask("fisher_nearest", world)
    labels = np.asarray(view.validation_labels)
    assumed = labels[r_z.argmax(axis=1)]
    np.testing.assert_array_equal(query.pseudo_labels, assumed[query.indices])
    predicted = np.asarray(evaluation.predictions(model, view.variables, view.pool))
    assert (predicted != assumed).any()  # otherwise the test would show nothing


def test_fisher_nearest_joint_assumes_by_gradients_under_the_predictions(
    ask, model, world, r_z
):
    view, _ = world

    @jax.jit
    @jax.vmap
    def gradients(image):
        label_fn = pseudo_label.argmax()
        return descriptors.descriptor(
            model, view.variables, image, label_fn, taps=TAPS
        ).g

    r_g = correlations(gradients(view.pool), gradients(view.validation))
    labels = np.asarray(view.validation_labels)
    assumed = labels[(r_z + r_g).argmax(axis=1)]
    query = ask("fisher_nearest_joint", world)
    np.testing.assert_array_equal(query.pseudo_labels, assumed[query.indices])
    assert (labels[r_z.argmax(axis=1)] != assumed).any()


@pytest.mark.parametrize("name", BY_COPIES)
def test_copies_of_each_position_decide_the_assumed_label(name, ask, model, world):
    view, _ = world
    query = ask(name, world)

    @jax.jit
    @jax.vmap
    def assumed(position):
        key = key_for(jax.random.key(0), "copies", position)
        made = copies(key, view.pool[position], model.std, num_copies=12)
        label_fn = BY_COPIES[name](model, view.variables, made, taps=taps_of(name))
        return label_fn(None, None, None)

    np.testing.assert_array_equal(query.pseudo_labels, assumed(query.indices))
    assert len(set(query.pseudo_labels)) > 1


def test_fisher_argmax_assumes_the_prediction(ask, world, model):
    view, _ = world
    query = ask("fisher_argmax", world)
    predicted = evaluation.predictions(model, view.variables, view.pool)
    np.testing.assert_array_equal(
        query.pseudo_labels, np.asarray(predicted)[query.indices]
    )


def test_fisher_oracle_assumes_the_truth(ask, world):
    query = ask("fisher_oracle", world)
    truth = np.asarray(world[1])
    np.testing.assert_array_equal(query.pseudo_labels, truth[query.indices])
    lie = (truth + 1) % 10
    told = ask("fisher_oracle", (world[0], jnp.asarray(lie)))
    np.testing.assert_array_equal(told.pseudo_labels, lie[told.indices])
    assert set(told.indices) != set(query.indices)


def test_feature_match_assumes_nothing_and_scores_by_r_z(ask, world, r_z):
    query = ask("feature_match", world)
    assert (query.pseudo_labels == -1).all() and (query.targets >= 0).all()
    np.testing.assert_allclose(
        query.scores, r_z[query.indices, query.targets], rtol=1e-3
    )
    view, _ = world
    unlabeled = np.where(view.is_unlabeled, r_z.T, -np.inf)
    assert query.scores[0] == pytest.approx(unlabeled[query.targets[0]].max(), 1e-3)


@pytest.mark.parametrize("name", MATCHING)
def test_targets_are_validation_mistakes(name, ask, world):
    query = ask(name, world)
    assert (query.targets >= 0).all()
    assert np.asarray(world[0].validation_mistakes)[query.targets].all()
    assert np.isfinite(query.scores).all()
    few = jnp.zeros(NUM_VALIDATION, bool).at[jnp.array([4, 11])].set(True)
    query = ask(name, (world[0]._replace(validation_mistakes=few), world[1]))
    assert set(query.targets) == {4, 11} and len(set(query.indices)) == BUDGET


@pytest.mark.parametrize("name", MATCHING)
def test_without_a_mistake_the_draw_is_random(name, ask, world):
    none = world[0]._replace(validation_mistakes=jnp.zeros(NUM_VALIDATION, bool))
    query = ask(name, (none, world[1]))
    assert len(set(query.indices)) == BUDGET
    assert np.asarray(none.is_unlabeled)[query.indices].all()
    assert (query.targets == -1).all() and np.isnan(query.scores).all()
    assert set(ask(name, (none, world[1]), key=1).indices) != set(query.indices)


# The copies of an example depend on its position, so that a query can be repeated: at
# another position, the copies and therefore the assumed label may differ.
@pytest.mark.parametrize("name", [name for name in MATCHING if name not in BY_COPIES])
def test_permuting_the_pool_permutes_the_query(name, ask, world):
    view, truth = world
    order = np.random.default_rng(2).permutation(NUM_POOL)
    moved = view._replace(pool=view.pool[order], is_unlabeled=view.is_unlabeled[order])
    query, permuted = ask(name, world), ask(name, (moved, truth[order]))
    np.testing.assert_array_equal(order[permuted.indices], query.indices)
    np.testing.assert_array_equal(permuted.targets, query.targets)
    np.testing.assert_array_equal(permuted.pseudo_labels, query.pseudo_labels)
    np.testing.assert_allclose(permuted.scores, query.scores, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["feature_match", "fisher_nearest", "fisher_nearest_joint"]
)
def test_the_batch_size_does_not_change_the_query(name, ask, model, world):
    view, truth = world
    strategy = getattr(acquisition, name)(model, taps=TAPS, budget=BUDGET, batch_size=7)
    view = access.restrict(view, strategy, hidden_labels=lambda: truth)
    chunked = jax.jit(strategy.query)(jax.random.key(0), view)
    whole = ask(name, world)
    np.testing.assert_array_equal(chunked.indices, whole.indices)
    np.testing.assert_array_equal(chunked.targets, whole.targets)
    np.testing.assert_array_equal(chunked.pseudo_labels, whole.pseudo_labels)


def test_the_taps_are_what_is_compared(model, world, ask):
    view, truth = world
    strategy = feature_match(model, taps=("fc1",), budget=BUDGET)
    kept = access.restrict(view, strategy, hidden_labels=lambda: truth)
    query = jax.jit(strategy.query)(jax.random.key(0), kept)
    assert float(abs(query.scores).max()) <= 15.01  # one block of 16: n - 1
    assert ask("feature_match", world).scores.max() > 15.01
