"""Compares uncertainty scores with closed forms, and tests the dropout masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import uncertainty
from fkjax.base import UserError, View, key_for
from tests.tiny import tiny

P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.4, 0.1], [0.4, 0.35, 0.25]])


def entropy(p):
    return -(p * np.log(p)).sum(axis=-1)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (uncertainty.variation_ratio_score, 1 - 3 / 4),
        (uncertainty.entropy_score, entropy(P.mean(axis=0))),
        (uncertainty.bald_score, entropy(P.mean(axis=0)) - entropy(P).mean()),
        (uncertainty.mean_std_score, P.std(axis=0).mean()),
        (uncertainty.margin_score, np.diff(np.sort(P.mean(axis=0))[:0:-1])[0]),
        (uncertainty.least_confidence_score, 1 - P.mean(axis=0).max()),
    ],
)
def test_scores_are_their_closed_forms(score, expected):
    np.testing.assert_allclose(score(jnp.log(P)), expected, rtol=1e-5)


def test_certain_and_equal_passes_have_no_score():
    certain = jnp.log(jnp.array([[1.0, 0.0, 0.0]] * 5))
    for name in ("variation_ratio", "entropy", "bald", "mean_std", "least_confidence"):
        score = getattr(uncertainty, f"{name}_score")
        np.testing.assert_allclose(score(certain), 0, atol=1e-6)


def test_a_pass_of_nan_is_told_by_every_score():
    log_probs = jnp.log(P).at[1].set(jnp.nan)
    for name in dir(uncertainty):
        if name.endswith("_score"):
            assert jnp.isnan(getattr(uncertainty, name)(log_probs)), name


MODEL = tiny((8, 8, 1), 10)
NUM, BUDGET = 60, 7


@pytest.fixture(scope="module")
def view():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (NUM, 8, 8, 1), dtype=np.uint8))
    variables = jax.tree.map(lambda x: 3 * x, jax.jit(MODEL.init)(jax.random.key(0)))
    is_unlabeled = jnp.arange(NUM) % 4 != 0
    return View(variables, images, is_unlabeled, *[None] * 4)


@functools.partial(jax.jit, static_argnames="num_passes")
def passes(view, key, image, num_passes):
    return uncertainty.stochastic_log_probs(
        key, MODEL, view.variables, image, num_passes=num_passes
    )


def test_passes_differ_and_repeat_by_key(view):
    image = view.pool[0]
    first = passes(view, jax.random.key(1), image, 5)
    np.testing.assert_array_equal(first, passes(view, jax.random.key(1), image, 5))
    np.testing.assert_allclose(first[:3], passes(view, jax.random.key(1), image, 3))
    assert len(np.unique(first, axis=0)) == 5
    assert (first != passes(view, jax.random.key(2), image, 5)).any()


def test_what_comes_before_the_first_dropout_is_computed_once(view):
    """Counts the calls of a tap before the first dropout and of one after it."""
    seen = {}

    def spy(variables, images, tap):
        def looking(name, activation):
            jax.debug.callback(
                lambda x: seen.setdefault(name, []).append(1), activation
            )
            return tap(name, activation)

        return MODEL.apply(variables, images, looking)

    model = MODEL._replace(apply=spy)
    passes = jax.jit(
        lambda variables, image: uncertainty.stochastic_log_probs(
            jax.random.key(1), model, variables, image, num_passes=16
        )
    )
    jax.block_until_ready(passes(view.variables, view.pool[0]))
    jax.effects_barrier()
    assert (len(seen["conv1"]), len(seen["fc1"])) == (1, 16)


PASSES = {"num_passes": 8}
OPTIONS = dict.fromkeys(["variation_ratio", "entropy", "bald", "mean_std"], PASSES) | {
    "margin": {},
    "least_confidence": {},
}


@functools.cache
def ask(name, budget=NUM, **options):
    """Returns the compiled query of a strategy, by default for the whole pool."""
    factory = getattr(uncertainty, name)
    return jax.jit(factory(MODEL, budget=budget, **OPTIONS[name], **options).query)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_unlabelled_come_first_in_descending_scores(name, view):
    query = ask(name)(jax.random.key(3), view)
    assert sorted(query.indices.tolist()) == list(range(NUM))
    num_unlabeled = int(view.is_unlabeled.sum())
    assert view.is_unlabeled[query.indices[:num_unlabeled]].all()
    scores = np.asarray(query.scores[:num_unlabeled])
    assert (np.diff(scores) <= 0).all() and scores[0] > scores[-1]
    assert (query.targets == -1).all() and (query.pseudo_labels == -1).all()


def test_scores_are_those_of_the_passes_of_each_example(view):
    key = jax.random.key(3)
    query = ask("bald")(key, view)

    def score(position):
        masks = key_for(key, "masks", position)
        each = passes(view, masks, view.pool[position], 8)
        return uncertainty.bald_score(each)

    expected = jax.jit(jax.vmap(score))(query.indices)
    np.testing.assert_allclose(query.scores, expected, atol=1e-5)


def test_budget_and_passes_at_once_do_not_change_the_order(view):
    query = ask("bald", budget=BUDGET, passes_at_once=7)(jax.random.key(3), view)
    ranked = ask("bald")(jax.random.key(3), view)
    np.testing.assert_array_equal(query.indices, ranked.indices[:BUDGET])


def test_margin_queries_what_is_between_two_classes(view):
    query = ask("margin")(jax.random.key(0), view)
    p = np.sort(jax.nn.softmax(MODEL.apply(view.variables, view.pool)), axis=1)
    margins = np.where(view.is_unlabeled, p[:, -1] - p[:, -2], np.inf)
    np.testing.assert_array_equal(query.indices[:BUDGET], np.argsort(margins)[:BUDGET])


def test_equal_scores_go_by_lot(view):
    """A model whose parameters are zero gives all images the same score."""
    view = view._replace(variables=jax.tree.map(jnp.zeros_like, view.variables))
    draws = [
        ask("margin")(jax.random.key(seed), view).indices.tolist() for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("name", ["entropy", "least_confidence"])
def test_the_first_query_is_by_lot(name, view):
    view = view._replace(is_unlabeled=jnp.ones(NUM, bool))
    queries = [ask(name)(jax.random.key(seed), view) for seed in range(30)]
    assert all(np.isnan(query.scores).all() for query in queries)
    first = {int(query.indices[0]) for query in queries}
    assert len(first) > 15


def test_dropout_is_needed():
    plain = tiny((8, 8, 1), 10, conv_dropout=0.0, dense_dropout=0.0)
    with pytest.raises(UserError, match="raise --conv-dropout"):
        uncertainty.bald(plain, budget=3)
