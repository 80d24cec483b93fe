import numpy as np
import pytest

from fkjax.acquisition.access import LabelAccessError, Withheld, view_for
from fkjax.base import Strategy, Variables, View

FIELDS = {
    "variables": Variables({}),
    "pool": np.zeros((4, 2)),
    "is_unlabeled": np.ones(4, bool),
    "validation": np.zeros((3, 2)),
    "validation_labels": np.arange(3),
    "validation_mistakes": np.zeros(3, bool),
    "labels": np.full(4, -1),
    "correction": np.zeros(2),
}


def seen(*sees):
    strategy = Strategy(frozenset(sees), lambda key, view: None)
    return view_for(strategy, **FIELDS, hidden_labels=lambda: np.arange(4))


@pytest.mark.parametrize(
    "sees",
    [
        (),
        ("validation", "validation_mistakes"),
        ("labels", "correction"),
        ("validation", "validation_labels", "validation_mistakes", "pool_labels"),
    ],
)
def test_a_strategy_is_given_what_it_declares_and_the_first_three_fields(sees):
    view = seen(*sees)
    everything = FIELDS | {"pool_labels": np.arange(4)}
    for name in View._fields:
        if name in ("variables", "pool", "is_unlabeled", *sees):
            np.testing.assert_array_equal(getattr(view, name), everything[name])
        else:
            assert isinstance(getattr(view, name), Withheld)
            with pytest.raises(LabelAccessError, match=name):
                len(getattr(view, name))


def test_a_field_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="test_labels"):
        seen("test_labels")
