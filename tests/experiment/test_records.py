import json

import numpy as np
import pytest

from fkjax.experiment.config import Config
from fkjax.experiment.records import (
    is_over,
    labels_per_class,
    mark_stop,
    measures,
    member_measures,
    queries_of,
)


def test_measures_are_those_of_the_confusion_matrix():
    found = measures(np.array([[3, 1], [0, 1]]))
    assert found == {
        "test_accuracy": 0.8,
        "balanced_accuracy": 0.875,
        "class_accuracy": [0.75, 1.0],
    }
    without = measures(np.array([[3, 1], [0, 0]]))
    assert without["balanced_accuracy"] == 0.75 and np.isnan(
        without["class_accuracy"][1]
    )


def test_members_are_named_for_an_ensemble_alone():
    assert member_measures(np.array([0.5, 0.25])) == {"member_accuracy": [0.5, 0.25]}
    assert member_measures(np.zeros(0)) == {}


def test_labels_are_counted_by_class_without_those_that_nobody_could_tell():
    assert labels_per_class(np.array([2, 0, -1, 2], np.int32), 4) == [1, 0, 2, 0]


def test_queries_have_ids_in_place_of_positions():
    found = queries_of(
        [2, 0],
        np.array([1, 0]),
        [-1, 3],
        [-1, 1],
        pool_ids=np.array([10, 11, 12]),
        validation_ids=np.array([20, 21]),
    )
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {
        "ids": [12, 10],
        "labels": [1, 0],
        "pseudo_labels": [-1, 3],
        "target_ids": [-1, 21],
    }


@pytest.mark.parametrize(
    ("held_out", "stops"), [(0.9, True), (0.5, False)], ids=["reached", "not reached"]
)
def test_a_record_is_marked_if_the_stop_rule_ends_the_run(held_out, stops):
    config = Config(stop_when="target-accuracy", target_accuracy=0.8, rounds=5)
    earlier = [{"round": 1, "num_labeled": 10, "held_out_accuracy": 0.2}]
    record = {"round": 2, "num_labeled": 20}
    mark_stop(config, earlier, record, held_out)
    assert record["held_out_accuracy"] == held_out
    assert record.get("stop") == ("target-accuracy" if stops else None)
    assert is_over(config, [*earlier, record]) == stops
    json.dumps(record)
