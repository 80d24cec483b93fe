"""A query of a pool, with ids, names and reasons."""

import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import STRATEGIES, random
from fkjax.base import Query, Strategy, UserError
from fkjax.selection.choose import choose
from fkjax.selection.from_outputs import problem_of_outputs
from tests.selection.test_from_outputs import CLASSES, LABELS, POOL, VALIDATION

PROBLEM = problem_of_outputs(POOL, VALIDATION, classes=["cat", "dog", "eel"])
NAMES = np.array(PROBLEM.classes)


def test_a_pick_says_which_mistake_it_answers():
    found = choose(PROBLEM, budget=9)
    predicted = VALIDATION["logits"].argmax(1)
    assert (found.is_mistake == (predicted != LABELS)).all()
    assert [p.rank for p in found.picks] == list(range(1, 10))
    for pick, index, target in zip(
        found.picks, found.indices, found.targets, strict=True
    ):
        assert pick.id == index and found.is_mistake[target]
        assert pick.answers == (target, NAMES[LABELS[target]], NAMES[predicted[target]])
        p = np.exp(POOL["logits"][index].astype(float))
        assert pick.predicted == NAMES[p.argmax()]
        assert pick.confidence == pytest.approx(p.max() / p.sum(), rel=1e-5)
        for said in (str(target), *pick.answers[1:], pick.pseudo_label):
            assert said in pick.reason
        assert pick.reason.endswith(".") and -1 <= pick.score <= 1


def test_scores_fall_within_the_first_rank():
    scores = [p.score for p in choose(PROBLEM, budget=9).picks]
    assert scores == sorted(scores, reverse=True)


def test_what_is_drawn_by_lot_answers_nothing_and_says_so():
    picks = choose(PROBLEM, budget=5, strategy="random").picks
    assert {(p.score, p.pseudo_label, p.answers) for p in picks} == {(None,) * 3}
    assert all(p.reason.startswith("Drawn at random") for p in picks)


def test_the_seed_and_the_round_decide_what_is_drawn():
    def drawn(**options):
        return choose(PROBLEM, budget=5, strategy="random", **options).indices.tolist()

    assert drawn() == drawn() != drawn(seed=1) != drawn(round=1)


def test_the_next_query_of_a_model_compiles_nothing_anew(monkeypatch):
    traced = []

    def make(model, *, budget):
        strategy = random(budget=budget)

        def query(key, view):
            traced.append(model)
            return strategy.query(key, view)

        return strategy._replace(query=query)

    monkeypatch.setitem(STRATEGIES, "mine", make)
    for part in (POOL, {name: rows[::-1] for name, rows in POOL.items()}):
        problem = problem_of_outputs(part, VALIDATION, labeled=[len(traced)])
        assert choose(problem, budget=9, strategy="mine").num_unlabeled == 399
    assert len(traced) == 1
    choose(problem, budget=8, strategy="mine")
    assert len(traced) == 2


def test_a_strategy_of_ones_own_is_a_value():
    def last(key, view):
        del key
        indices = jnp.argsort(view.is_unlabeled)[-3:]
        nothing = jnp.full(3, -1, jnp.int32)
        return Query(indices, nothing, nothing, jnp.ones(3))

    found = choose(PROBLEM, budget=3, strategy=Strategy(frozenset(), last))
    assert sorted(found.indices.tolist()) == [397, 398, 399]
    assert choose(PROBLEM, budget=3, strategy=random(budget=3)).picks


@pytest.mark.parametrize("budget", [0, 401])
def test_an_impossible_budget_is_refused(budget):
    with pytest.raises(
        UserError, match=f"1 to the 400 unlabeled examples .* got {budget}"
    ):
        choose(PROBLEM, budget=budget)


def test_a_budget_may_be_a_whole_number_of_any_type():
    expected = choose(PROBLEM, budget=3).indices.tolist()
    for budget in (3.0, np.int64(3), np.float32(3), np.array(3)):
        found = choose(PROBLEM, budget=budget, seed=np.int64(0), round=0.0)
        assert found.indices.tolist() == expected


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"budget": 2.5}, "budget must be an integer, got 2.5"),
        ({"budget": "10"}, "budget must be an integer, got '10'"),
        ({"budget": True}, "budget must be an integer, got True"),
        ({"budget": float("nan")}, "budget must be an integer, got nan"),
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"seed": 1 << 64}, "seed must be from"),
        ({"round": -1}, "round must be from 0"),
    ],
)
def test_numbers_that_are_not_whole_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        choose(PROBLEM, **({"budget": 1} | options))


def test_unknown_strategies_and_the_one_that_sees_hidden_labels_are_refused():
    with pytest.raises(UserError, match="unknown strategy 'best'"):
        choose(PROBLEM, budget=1, strategy="best")
    with pytest.raises(UserError, match="hidden labels"):
        choose(PROBLEM, budget=1, strategy="fisher_oracle")


@pytest.mark.parametrize(("name", "part"), [("pool", POOL), ("validation", VALIDATION)])
@pytest.mark.parametrize("strategy", ["fisher_nearest", "feature_match"])
def test_what_is_not_finite_is_told_by_its_id(name, part, strategy):
    features = part["features"].copy()
    features[7, 1] = np.nan
    parts = {"pool": POOL, "validation": VALIDATION}
    parts[name] = part | {"features": features}
    problem = problem_of_outputs(parts["pool"], parts["validation"])
    with pytest.raises(UserError, match=rf"1 {name} example\(s\) .* \(ids 7\)"):
        choose(problem, budget=3, strategy=strategy)


def test_without_a_mistake_all_is_drawn_by_lot():
    perfect = VALIDATION | {"logits": 9 * np.eye(CLASSES, dtype=np.float32)[LABELS]}
    found = choose(problem_of_outputs(POOL, perfect), budget=4)
    assert not found.is_mistake.any() and (found.targets == -1).all()
    assert all(p.score is None for p in found.picks)


def test_a_pick_without_similarity_is_not_called_similar():
    found = choose(PROBLEM, budget=400)
    matched = [pick for pick in found.picks if pick.answers is not None]
    is_similar = [pick.score > 0 for pick in matched]
    assert {True, False} == set(is_similar)
    assert [pick.reason.startswith("Similar") for pick in matched] == is_similar
    unlike = [pick.reason for pick in matched if pick.score <= 0]
    assert all(reason.startswith("Not similar") for reason in unlike)


def test_a_reason_claims_no_uncertainty_of_strategies_that_measure_none(monkeypatch):
    def make(model, *, budget):
        del model

        def query(key, view):
            del key, view
            nothing = jnp.full(budget, -1, jnp.int32)
            scores = jnp.array([2.0, -1.0])
            return Query(jnp.arange(budget), nothing, nothing, scores)

        return Strategy(frozenset(), query)

    monkeypatch.setitem(STRATEGIES, "vaal", make)
    first, second = choose(PROBLEM, budget=2, strategy="vaal").picks
    assert first.reason.startswith("The discriminator takes it for unlabeled; ")
    assert second.reason.startswith("The discriminator takes it for labeled, but ")
    for pick in choose(PROBLEM, budget=2, strategy=make).picks:
        assert pick.reason.startswith("Chosen by its score; ")
    for pick in choose(PROBLEM, budget=2, strategy="margin").picks:
        assert pick.reason.startswith("The model is uncertain; ")


def test_picks_with_equal_scores_are_random_and_say_so():
    equal = POOL | {"logits": np.zeros_like(POOL["logits"])}
    problem = problem_of_outputs(equal, VALIDATION)
    first, other = (
        choose(problem, budget=20, strategy="margin", seed=seed) for seed in (0, 1)
    )
    assert set(first.indices) != set(other.indices) and first.indices.max() > 100
    for pick in first.picks:
        assert pick.reason.startswith("Its score equals that of 19 other picks")
