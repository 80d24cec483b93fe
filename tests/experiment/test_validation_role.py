"""Rounds that train on the validation set, and the correction that they choose."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fkjax.commands.run
from fkjax.base import Query, Strategy, UserError
from fkjax.experiment import pool as pools
from fkjax.experiment.config import Config
from fkjax.experiment.deployment import correction_rule, read_shares
from fkjax.experiment.driver import Arrays, RoundState, make_driver
from fkjax.experiment.held_out import CorrectionRule, hold_out
from fkjax.experiment.oracle import array_oracle
from fkjax.experiment.rounds import first_round, play_round
from fkjax.label_shift import choose_correction, corrected, smoothed_shares
from fkjax.models import MODELS
from fkjax.runs.record import flaw
from fkjax.training.fit import Schedule
from tests.commands.command import read_jsonl, read_queries
from tests.experiment.test_resuming import (
    Killer,
    a_file,
    flip_a_bit,
    kill_at,
    lines_of,
    outcome,
)
from tests.tiny import ARCHITECTURE, tiny

BUDGET, NUM_POOL, NUM_VALIDATION = 5, 60, 40
ASKED = np.array([3, 1, 8, 20, 11])


@pytest.fixture(scope="module")
def model(digits):
    return tiny((8, 8, 1), 10, mean=digits.mean, std=digits.std)


@pytest.fixture(scope="module")
def hidden(digits_splits):
    return digits_splits.pool.labels[:NUM_POOL]


@pytest.fixture(scope="module")
def start(model, digits_splits):
    """The state before any label, and the arrays."""
    pool, validation, _, test = digits_splits[:4]
    variables = jax.jit(model.init)(jax.random.key(0))
    of_validation, of_test = slice(NUM_VALIDATION), slice(50)
    images = pool.images[:NUM_POOL], validation.images[of_validation]
    images += validation.images[of_validation], test.images[of_test]
    labels = validation.labels[of_validation], validation.labels[of_validation]
    labels += (test.labels[of_test],)
    arrays = Arrays(*map(jnp.asarray, (*images, *labels)), start=variables)
    return RoundState(jax.random.key(3), pools.create(NUM_POOL), variables), arrays


@pytest.fixture(scope="module")
def rounds(model, start, hidden):
    """Rounds 0 and 1: the states, the results, and the view of the query."""
    state, arrays = start
    driver = make_driver(
        model,
        schedule=Schedule(epochs=25),
        capacity=2 * BUDGET,
        trains_on_validation=True,
        correction=CorrectionRule("auto"),
    )
    views = []

    def query(key, view):
        views.append(view)
        nothing = jnp.full(BUDGET, -1)
        return Query(jnp.asarray(ASKED), nothing, nothing, jnp.zeros(BUDGET))

    strategy = Strategy(
        frozenset({"labels", "correction", "validation_mistakes"}), query
    )
    state, first = first_round(driver, state, arrays, budget=BUDGET)
    then, second = play_round(
        driver, strategy, state, arrays, array_oracle(hidden), hidden_labels=None
    )
    assert driver.update._cache_size() == 1  # round 0 shares the compiled training
    return (state, then), (first, second), views[0]


def test_round_0_queries_nothing_and_learns(rounds, start):
    (state, _), (result, _), _ = rounds
    assert result.query.indices.shape == result.labels.shape == (0,)
    assert result.num_mistakes == -1 and (state.pool.queried_at == -1).all()
    assert np.trace(result.confusion) > 10  # of 50: V teaches more than chance
    assert result.confusion.sum() == result.uncorrected.sum() == 50
    assert set(result.seconds) == {"training", "held_out", "evaluation"}


def test_a_query_sees_the_labels_the_correction_and_held_out_mistakes(rounds, start):
    (state, then), (_, result), view = rounds
    labels = np.asarray(start[1].validation_labels)
    predicted = np.asarray(
        corrected(state.held_out.correction, state.held_out.log_probs)
    )
    is_mistake = predicted.argmax(axis=1) != labels
    np.testing.assert_array_equal(view.validation_mistakes, is_mistake)
    assert result.num_mistakes == is_mistake.sum() > 0
    assert (view.labels == -1).all() and (then.pool.label >= 0).sum() == BUDGET
    jax.tree.map(
        np.testing.assert_array_equal, view.correction, state.held_out.correction
    )


def test_the_correction_is_chosen_by_the_held_out_predictions(rounds, start, hidden):
    states, results, _ = rounds
    labels = np.asarray(start[1].validation_labels)
    bought = np.zeros(0, int), hidden[ASKED]
    for state, result, more in zip(states, results, bought, strict=True):
        expected = choose_correction(
            state.held_out.log_probs,
            labels,
            smoothed_shares(np.concatenate([labels, more]), 10),
            smoothed_shares(labels, 10),
        )
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
            tuple(result.correction),
            tuple(expected),
        )


def test_the_test_set_is_predicted_with_and_without_the_correction(
    rounds, start, model
):
    (_, state), (_, result), _ = rounds
    arrays = start[1]
    logits = model.apply(state.variables, arrays.test_images)
    for name, scores in (
        ("uncorrected", logits),
        ("confusion", corrected(state.held_out.correction, logits)),
    ):
        predicted = np.asarray(scores).argmax(axis=1)
        expected = np.zeros((10, 10), int)
        np.add.at(expected, (np.asarray(arrays.test_labels), predicted), 1)
        np.testing.assert_array_equal(getattr(result, name), expected)


def test_a_model_that_is_held_out_is_corrected_once_it_has_labels(model, start, hidden):
    state, arrays = start
    driver = make_driver(
        *(model,),
        schedule=Schedule(epochs=1),
        capacity=BUDGET,
        correction=CorrectionRule("counts"),
    )
    found = driver.hold_out(state, arrays)
    assert (
        float(found.correction.strength) == 0 and not found.correction.log_ratio.any()
    )
    expected = jax.nn.log_softmax(model.apply(state.variables, arrays.validation))
    np.testing.assert_allclose(found.log_probs, expected, atol=1e-5)
    pool = pools.add(state.pool, jnp.asarray(ASKED), jnp.asarray(hidden[ASKED]))
    found = driver.hold_out(state._replace(pool=pool), arrays)
    assert float(found.correction.strength) == float(found.correction.temperature) == 1
    shares = smoothed_shares(arrays.validation_labels, 10)
    ratio = jnp.log(shares / smoothed_shares(hidden[ASKED], 10))
    np.testing.assert_allclose(found.correction.log_ratio, ratio, atol=1e-5)


def test_shares_of_a_file_are_those_of_deployment(tmp_path):
    path = tmp_path / "shares.csv"
    path.write_text("share;class\n0.2;b\n0,8;a\n".replace("0,8", "0.8"))
    rule = correction_rule(Config(prior_correction=str(path)), ["a", "b"])
    assert rule.kind == "auto"
    np.testing.assert_allclose(rule.shares, [0.8, 0.2])
    log_probs = jnp.log(jnp.array([[0.5, 0.5], [0.6, 0.4]]))
    found = hold_out(rule, log_probs, jnp.array([0, 1]), jnp.array([0, 1, -1]))
    np.testing.assert_allclose(found.correction.log_ratio, jnp.log(rule.shares * 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class,share\na,0.5\n", "class 'b' is missing"),
        ("class,share\na,0.5\nb,0.5\nc,0.1\n", "line 4: there is no class 'c'"),
        ("class,share\na,0.5\na,0.5\nb,0.5\n", "line 3: class 'a' is there twice"),
        ("class,share\na,1\nb,0\n", "line 3: share '0' is not a positive number"),
        ("class,share\na,50%\nb,0.5\n", "line 2: share '50%' is not a positive"),
        ("class,share\na,80\nb,20\n", "the shares sum to 100"),
        ("class,part\na,1\n", "share is missing"),
    ],
)
def test_a_file_of_shares_with_an_error_is_refused(text, said, tmp_path):
    path = tmp_path / "shares.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_shares(path, ["a", "b"])
    assert said in str(error.value) and str(path) in str(error.value)
    with pytest.raises(UserError, match="auto, counts, none or a CSV file"):
        correction_rule(Config(prior_correction="automatic"), ["a", "b"])


# The command

SMALL = (
    "--model tiny --seeds 1 --rounds 1 --budget 5 --epochs 2 --pretraining none "
    "--validation-size 40"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    argv = [*SMALL, "--strategies", "random", "margin", "--output-dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", ARCHITECTURE)
        assert fkjax.commands.run.main(argv) == 0
    return folder


def test_a_run_records_round_0_and_the_protocol(run):
    records = read_jsonl(run)
    assert [(r["strategy"], r["round"], r["num_labeled"]) for r in records] == [
        *[("random", 0, 0), ("random", 1, 5)],
        *[("margin", 0, 0), ("margin", 1, 5)],
    ]
    first, _, again, margin = records
    assert again == first | {"strategy": "margin"}  # the same for all strategies
    assert margin["num_random"] == 0  # the model has learned before the first query
    for r in records:
        assert flaw(r) is None and r["validation_role"] == "train"
        assert 1 / 3 <= r["correction_temperature"] <= 3
        assert 0 <= r["correction_strength"] <= 3
        for name in ("test_accuracy", "balanced_accuracy"):
            assert 0 <= r[f"{name}_uncorrected"] <= 1
        assert ("pretraining" in r["seconds"]) == (r["round"] == 0)
    assert sum(first["queried_per_class"]) == 0
    assert len(read_queries(run)) == 10
    config = json.loads((run / "config.json").read_text())
    assert config["validation_role"] == "train"
    assert config["prior_correction"] == "auto"


@pytest.mark.parametrize(
    ("was", "said"),
    [
        ({}, "--validation-role was hold-out and is now train"),
        ({"train_on_validation": False}, "--prior-correction was none and is now auto"),
        ({"train_on_validation": True}, "was train by --train-on-validation and is"),
    ],
)
def test_a_folder_of_before_is_resumed_with_its_own_settings_only(
    was, said, run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)
    config = json.loads((run / "config.json").read_text())
    del config["validation_role"], config["prior_correction"]
    (tmp_path / "config.json").write_text(json.dumps(config | was))
    argv = [*SMALL, "--strategies", "random", "margin", "--output-dir", str(tmp_path)]
    assert fkjax.commands.run.main(argv) == 2
    assert said in capsys.readouterr().err


# Resuming

RESUMED = [*SMALL, "--strategies", "random"]


@pytest.fixture(scope="module")
def killer():
    return Killer()


@pytest.fixture(scope="module")
def prepared():
    """Compiles once for all runs, and draws no figures."""
    made, prepare = [], fkjax.commands.run.prepare

    def once(config, dataset):
        if not made:
            made.append(prepare(config, dataset))
        return made[0]._replace(config=config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", ARCHITECTURE)
        patch.setattr(fkjax.commands.run, "prepare", once)
        for name in ("draw_learning_curve", "draw_confusion"):
            patch.setattr(fkjax.commands.run.figures, name, lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A run that was never killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fkjax.commands.run.main([*RESUMED, "--output-dir", str(folder)]) == 0
    return folder


def test_a_run_that_is_killed_goes_on_the_same(killer, whole, tmp_path, capsys):
    seen = set()
    for step in range(5, 200, 7):
        folder = tmp_path / str(step)
        if kill_at(killer, folder, step, RESUMED):
            break
        seen.add(len(lines_of(folder)))
        assert fkjax.commands.run.main([*RESUMED, "--output-dir", str(folder)]) == 0
        assert outcome(folder) == outcome(whole)
    assert seen == {0, 1, 2}


def test_a_damaged_round_0_is_done_again(killer, whole, tmp_path, capsys):
    folder, step = tmp_path / "killed", 5
    while not (folder / "rounds.jsonl").exists():
        shutil.rmtree(folder, ignore_errors=True)
        assert not kill_at(killer, folder, step, RESUMED)
        step += 3
    (sums,) = folder.glob("checkpoints/seed-0/strategy-random/round-*.sha256.json")
    flip_a_bit(a_file(sums))
    capsys.readouterr()
    assert fkjax.commands.run.main([*RESUMED, "--output-dir", str(folder)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "round 0 cannot be used" in line
    assert line.endswith("resuming from the start")
    assert outcome(folder) == outcome(whole)
