"""Learning curves and labels needed, compared with values computed by hand."""

import numpy as np
import pytest

from fkjax.report import curves
from tests.records import grid, record


def test_curves_by_hand():
    given = {(1, 1): 0.9, (1, 0): 0.6, (0, 1): 0.7, (0, 0): 0.5}
    records = [record(seed=s, round=r, accuracy=a) for (s, r), a in given.items()]
    curve = curves.learning_curves(records)["fisher"]
    np.testing.assert_array_equal(curve.num_labeled, [100, 200])
    np.testing.assert_allclose(curve.mean, [0.55, 0.8])
    np.testing.assert_allclose(curve.std, [np.sqrt(0.005), np.sqrt(0.02)])
    np.testing.assert_allclose(curve.low, [0.5, 0.7])
    np.testing.assert_allclose(curve.high, [0.6, 0.9])
    assert curve.accuracy.shape == (2, 2) and curve.num_seeds.tolist() == [2, 2]


def test_curves_of_an_unfinished_run_use_the_seeds_there_are(recwarn):
    records = grid(["a"], 2, 3)[:-1]
    records[0]["test_accuracy"] = None  # how a file represents NaN
    curve = curves.learning_curves(records)["a"]
    assert curve.num_seeds.tolist() == [1, 2, 1]
    np.testing.assert_allclose(curve.mean, [0.51, 0.545, 0.58])
    np.testing.assert_array_equal(np.isnan(curve.std), [True, False, True])
    assert np.isnan(curve.accuracy).sum() == 2
    assert not list(recwarn)


def test_curves_take_other_metrics_and_the_later_of_two_records():
    records = [record(accuracy=0.3), record(accuracy=0.5)]
    curve = curves.learning_curves(records, metric="balanced_accuracy")["fisher"]
    np.testing.assert_allclose(curve.accuracy, [[0.4]])
    assert curves.learning_curves([]) == {}


def test_one_dataset_at_a_time():
    with pytest.raises(ValueError, match="one dataset"):
        curves.learning_curves([record(), record(dataset="mnist")])


def test_labels_to_reach_by_hand():
    def reach(target):
        return curves.labels_to_reach([10, 20, 40], [50, 48, 60], target)

    assert reach(40) == reach(50) == 10
    assert reach(54) == 30 and reach(60) == 40
    assert reach(60.1) is None and reach(float("nan")) is None
    assert curves.labels_to_reach([5], [float("nan")], 1) is None
