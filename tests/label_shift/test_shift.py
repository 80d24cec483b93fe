import time

import jax
import numpy as np
import pytest
from scipy import stats

from fkjax.base import UserError, key_for
from fkjax.label_shift import (
    bias,
    em_prior,
)
from fkjax.label_shift import shift as shift_module
from tests.label_shift.gaussians import CLASSES, FLAT, SKEWED, gaussians, softmax


@pytest.fixture(scope="module")
def shift(data):
    labels, probs, pool = data
    return bias(pool, probs, labels, classes=CLASSES)


def test_a_bias_is_found(shift):
    np.testing.assert_allclose(shift.em.value, SKEWED, atol=0.03)
    np.testing.assert_allclose(shift.bbse.value, SKEWED, atol=0.03)
    for shares in (shift.em, shift.bbse):
        assert (shares.low <= SKEWED).all() and (SKEWED <= shares.high).all()
        assert (shares.low <= shares.value).all()
        assert (shares.value <= shares.high).all()
    assert shift.verdict == "biased" and shift.p < 0.001
    assert shift.distance.low < 0.5 * np.abs(SKEWED - FLAT).sum() < shift.distance.high
    assert shift.sentence.startswith("The pool is biased: ") and one_line(shift)
    assert "too frequent is class cat, at 1." in shift.sentence
    assert "too rare is class eel, at 0.2" in shift.sentence
    assert not shift.cautions
    assert (shift.num_pool, shift.num_validation, shift.num_resamples) == (
        (3000, 1200, 200)
    )


def one_line(shift):
    return shift.sentence.endswith(".") and "\n" not in shift.sentence


def test_the_same_seed_gives_the_same_and_another_another(data, shift):
    labels, probs, pool = data
    again = bias(pool, probs, labels, classes=CLASSES)
    other = bias(pool, probs, labels, classes=CLASSES, seed=1, num_resamples=40)
    np.testing.assert_array_equal(again.em.low, shift.em.low)
    assert again.sentence == shift.sentence
    assert (other.em.low != shift.em.low).all()
    np.testing.assert_array_equal(other.em.value, shift.em.value)


def test_permuting_the_classes_permutes_the_estimates(data, shift):
    labels, probs, pool = data
    order = np.array([2, 0, 1])
    new = bias(
        pool[:, order],
        probs[:, order],
        np.argsort(order)[labels],
        classes=[CLASSES[y] for y in order],
    )
    np.testing.assert_allclose(new.em.value, shift.em.value[order], atol=1e-4)
    np.testing.assert_allclose(new.bbse.value, shift.bbse.value[order], atol=1e-9)
    np.testing.assert_allclose(new.em.low, shift.em.low[order], atol=0.02)
    assert new.distance.value == pytest.approx(shift.distance.value, abs=1e-4)


def test_no_shift_gives_no_sign(data):
    labels, probs, _ = data
    pool = gaussians(np.random.default_rng(6), FLAT, 3000)[1]
    found = bias(pool, probs, labels, classes=CLASSES)
    assert found.verdict == "no sign" and found.distance.low == 0
    assert found.sentence.startswith("No sign that the pool is biased: ")
    assert one_line(found) and not found.cautions


def test_a_few_examples_cannot_tell():
    labels = np.repeat(np.arange(3), [4, 3, 2])
    probs = np.eye(3)[labels] * 0.7 + 0.1
    pool = probs[:5]
    found = bias(pool, probs, labels, classes=CLASSES)
    assert found.verdict == "undetermined" and one_line(found)
    assert found.sentence.startswith("Undetermined whether the pool is biased: ")
    assert "9 validation examples" in found.sentence
    assert "fewer than 10 examples of cat, dog, eel" in found.cautions[0]
    one = bias(pool[:1], probs, labels, classes=CLASSES)
    assert one.verdict == "undetermined" and one_line(one)


def test_a_model_that_tells_nothing_apart_cannot_tell(data):
    flat = np.tile([0.4, 0.3, 0.3], (200, 1))
    found = bias(flat, flat, np.arange(200) % 3, classes=CLASSES)
    assert found.verdict == "undetermined" and one_line(found)
    assert found.em_problem and "no validation example as dog, eel" in (
        found.bbse_problem
    )
    for shares in (found.em, found.bbse, found.ratio):
        assert all(np.isnan(each).all() for each in shares)
    assert np.isnan(found.distance.value) and found.p == 1


def test_a_bias_may_be_certain_and_its_size_unknown():
    # Predictions differ, but on the validation set they have nothing to do with labels.
    probs = np.tile([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]], (100, 1))
    labels = np.arange(300) // 3 % 3
    pool = np.tile([0.5, 0.3, 0.2], (300, 1))
    found = bias(pool, probs, labels, classes=CLASSES)
    assert found.verdict == "biased" and "the size of the bias is not determined" in (
        found.sentence
    )


def test_one_estimate_stands_in_for_the_other(data):
    labels, probs, pool = data
    # The last class is never predicted, but its probability is still informative.
    low = np.array([1.0, 1.0, 0.05])
    probs, pool = (
        p * low / (p * low).sum(axis=1, keepdims=True) for p in (probs, pool)
    )
    keep = probs.argmax(axis=1) != 2
    labels, probs, pool = labels[keep], probs[keep], pool[pool.argmax(axis=1) != 2]
    found = bias(pool, probs, labels, classes=CLASSES, num_resamples=40)
    assert found.bbse_problem == (
        "the model predicts no validation example as eel, and the predictions of 997 "
        "validation examples hardly separate cat, dog from other classes"
    )
    assert not found.em_problem and np.isfinite(found.ratio.value).all()
    assert np.isfinite(found.em.low).all() and np.isnan(found.bbse.low).all()
    assert found.best == "em"


def test_a_class_is_not_determined_of_which_there_is_no_sign():
    # The model has the classes of the first three labels only, as if it had been
    # trained on nothing else: it takes each eel for a cat.
    classes = [*CLASSES, "fox"]
    rng = np.random.default_rng(9)
    truth = np.array([0.5, 0.25, 0.05, 0.2])

    def outputs(prior, num, least):
        labels = rng.choice(4, num, p=prior)
        x = 2 * np.eye(3)[labels % 3] + rng.normal(size=(num, 3))
        p = softmax(2 * x)
        return labels, np.append(p * (1 - least), np.full((num, 1), least), axis=1)

    for least in (0.0, 1e-6, 0.01):
        labels, probs = outputs(np.full(4, 1 / 4), 400, least)
        pool = outputs(truth, 2000, least)[1]
        found = bias(pool, probs, labels, classes=classes, num_resamples=100)
        assert "the model predicts no validation example as fox" in found.bbse_problem
        assert "fox" in found.em_problem and "class fox" not in found.sentence
        assert "the size of the bias is not determined" in found.sentence
        for shares in (found.em, found.bbse, found.ratio):
            assert all(np.isnan(each[3]) for each in shares)
        # EM determines nothing where fox never has a probability above zero.
        assert np.isfinite(found.em.value).any() == (least > 0)
        for shares in (found.em, found.bbse) if least else (found.bbse,):
            known = np.isfinite(shares.value)
            assert known[1:3].all()  # fox is taken for cat, not for these
            assert ((shares.low <= truth) & (truth <= shares.high))[known].all()
        assert "too rare is class eel" in found.sentence and one_line(found)


def test_degenerate_sets_are_finite_or_not_determined(data):
    labels, probs, pool = data
    first = [np.flatnonzero(labels == y)[0] for y in range(3)]
    for found in (
        bias(pool[:1], probs, labels, classes=CLASSES, num_resamples=40),
        bias(pool, probs[first], [0, 1, 2], classes=CLASSES, num_resamples=40),
        bias(pool[:1], probs[first], [0, 1, 2], classes=CLASSES, num_resamples=40),
    ):
        assert found.best == "" and np.isnan(found.pool.value).all()
        assert found.verdict == "undetermined" and one_line(found)
    sure = np.eye(3)[labels]
    found = bias(sure[labels == 0], sure, labels, classes=CLASSES, num_resamples=40)
    np.testing.assert_allclose(found.pool.value, [1, 0, 0])
    assert found.pool.low[0] > 0.95 and (found.pool.high[1:] < 0.05).all()
    with pytest.raises(UserError, match="none of dog, eel"):
        bias(pool, probs[:9], np.zeros(9, int), classes=CLASSES)


def test_labels_are_names_or_positions(data):
    labels, probs, pool = data[0][:200], data[1][:200], data[2][:300]
    expected = bias(pool, probs, labels, classes=CLASSES, num_resamples=40).pool
    for given, classes in (
        (np.array(CLASSES)[labels], CLASSES),
        (np.array([9, 5, 7])[labels], [9, 5, 7]),
        (np.array([1.0, 2.0, 0.0])[labels], np.array([1, 2, 0])),
        (np.array(["1", "2", "0"])[labels], ["1", "2", "0"]),
        (np.array([1, 2, 3])[labels], ["1", "2", "3"]),
        (labels, ["0", "1", "2"]),
        (labels, ["3", "4", "5"]),
    ):
        found = bias(pool, probs, given, classes=classes, num_resamples=40)
        assert found.classes == [str(name) for name in classes]
        np.testing.assert_array_equal(found.pool.low, expected.low)


def test_the_steps_are_told(data):
    labels, probs, pool = data
    steps = []
    bias(pool[:50], probs, labels, classes=CLASSES, num_resamples=40, tell=steps.append)
    assert len(set(steps)) == len(steps) >= 3


@pytest.mark.slow
def test_a_thousand_classes_take_seconds():
    rng = np.random.default_rng(10)
    labels = np.append(np.arange(1000), rng.integers(0, 1000, 4000))
    hidden = rng.choice(1000, 5000, p=rng.dirichlet(np.full(1000, 0.5)))

    def outputs(labels):
        logits = rng.standard_normal((len(labels), 1000))
        logits[np.arange(len(labels)), labels] += 4
        return softmax(2 * logits)

    since = time.process_time()
    found = bias(outputs(hidden), outputs(labels), labels, classes=range(1000))
    assert time.process_time() - since < 40
    assert np.isfinite(found.pool.value).any()


def test_a_pool_that_looks_different_is_told(data):
    labels, probs, _ = data
    pool = gaussians(np.random.default_rng(7), SKEWED, 3000, noise=2.5)[1]
    found = bias(pool, probs, labels, classes=CLASSES, num_resamples=40)
    assert any("label shift does not hold" in caution for caution in found.cautions)


def test_a_large_pool_is_sampled(monkeypatch, data):
    labels, probs, pool = data
    monkeypatch.setattr(shift_module, "MOST_POOL", 500)
    found = bias(pool, probs, labels, classes=CLASSES, num_resamples=40)
    assert found.num_pool == 500
    np.testing.assert_allclose(found.em.value, SKEWED, atol=0.08)
    monkeypatch.setattr(shift_module, "_LEAST_POOL", 100)
    monkeypatch.setattr(shift_module, "_MOST_ENTRIES", 600)
    found = bias(pool, probs, labels, classes=CLASSES, num_resamples=40)
    assert found.num_pool == 200
    part = shift_module.part_of_pool(*pool.shape)
    assert len(set(part.tolist())) == 200 and (np.diff(part) > 0).all()
    again = bias(pool[part], probs, labels, classes=CLASSES, num_resamples=40)
    np.testing.assert_array_equal(again.em, found.em)
    others = shift_module.part_of_pool(*pool.shape, seed=1)
    assert set(part.tolist()) != set(others.tolist())


def test_intervals_cover_and_are_as_wide_as_estimates_scatter():
    truth, covered, widths, values = np.array([0.6, 0.25, 0.15]), [], [], []
    distances = []
    for draw in range(40):
        rng = np.random.default_rng([8, draw])
        labels, probs = gaussians(rng, FLAT, 150, sharpness=2)
        pool = gaussians(rng, truth, 300, sharpness=2)[1]
        found = bias(pool, probs, labels, classes=CLASSES, seed=draw, num_resamples=60)
        both = found.em, found.bbse
        covered.append([(s.low <= truth) & (truth <= s.high) for s in both])
        widths.append([s.high - s.low for s in both])
        values.append([s.value for s in both])
        distance = 0.5 * np.abs(truth - FLAT).sum()
        distances.append(found.distance.low <= distance <= found.distance.high)
    # Of 40 draws the share that covers has a standard error of 3.5 points.
    coverage = np.mean(covered, axis=0)
    assert (coverage >= 0.85).all() and coverage.mean() >= 0.9
    assert np.mean(distances) >= 0.85
    scatter = np.std(values, axis=0)
    ratio = np.mean(widths, axis=0) / (2 * 1.96 * scatter)
    assert (ratio > 0.65).all() and (ratio < 1.5).all()


def test_the_test_of_a_bias_is_exact():
    pool, validation = np.array([30, 10]), np.array([12, 12])
    total = pool + validation

    def pearson(k):
        table = np.array([[k, 24 - k], [total[0] - k, total[1] - 24 + k]])
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / 64
        return ((table - expected) ** 2 / expected).sum()

    chances = stats.hypergeom(64, total[0], 24)
    at_least = pearson(12) - 1e-9
    exact = sum(chances.pmf(k) for k in range(2, 25) if pearson(k) >= at_least)
    key = key_for(jax.random.key(0), "a test")
    found = shift_module._homogeneity(key, pool, validation)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999))


GOOD = np.tile([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]], (5, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": [0, 1] * 7 + [0]}, "none of eel"),
        ({"labels": [0, 1]}, "one label for each of its 15"),
        ({"labels": [0, 1, 3] * 5}, "0 to 2, got numbers from 0 to 3"),
        ({"labels": [0, 1, 1.5] * 5}, "numbers of 3 classes"),
        ({"labels": [-1, 1, 2] * 5}, "numbers from -1 to 2"),
        ({"labels": ["cat", "dog", "elk"] * 5}, "label 2 of the validation set is elk"),
        ({"labels": [7, 8, 3] * 5, "classes": [7, 8, 9]}, "label 2 .* is 3, but the"),
        ({"labels": [2, 1, 0] * 5, "classes": ["1", "2", "0"]}, "names or positions"),
        ({"probs": GOOD[:0]}, "got shape"),
        ({"pool": GOOD[:0]}, "got shape"),
        ({"pool": GOOD[0]}, "got shape"),
        ({"pool": 2 * GOOD}, "pool must be 0 or more and sum to 1, but row 0"),
        ({"pool": GOOD * np.nan}, "apply a softmax"),
        ({"probs": GOOD - 0.2}, "validation set must be 0 or more"),
        ({"pool": np.full((4, 2), 0.5)}, "2 columns for the pool"),
        ({"classes": ["a", "b"]}, "one column for each of the 2 classes"),
        ({"classes": ["a"]}, "two or more classes"),
        ({"num_resamples": 39}, "num_resamples must be 40 or more"),
    ],
)
def test_a_mistake_is_told(given, message):
    known = {
        "pool": GOOD,
        "probs": GOOD,
        "labels": [0, 1, 2] * 5,
        "classes": CLASSES,
        "num_resamples": 40,
    } | given
    arrays = [known.pop(name) for name in ("pool", "probs", "labels")]
    with pytest.raises(UserError, match=message) as error:
        bias(*arrays, **known)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, np.nan]])
def test_a_prior_that_is_none_is_told(prior):
    with pytest.raises(UserError, match="positive share for each of the 3") as error:
        em_prior(GOOD, prior)
    assert "\n" not in str(error.value)


def test_em_knows_no_share_if_a_class_has_no_output():
    labels = np.arange(90) % 3
    probs = np.eye(3)[np.where(labels == 2, 0, labels)] * 0.8 + [0.1, 0.1, 0]
    shift = bias(probs, probs, labels, classes="abc", num_resamples=40)
    assert np.isnan(shift.em.value).all() and np.isnan(shift.bbse.value[2])
    assert "probability of c is always zero" in shift.em_problem
    assert "predicts no validation example as c" in shift.bbse_problem
