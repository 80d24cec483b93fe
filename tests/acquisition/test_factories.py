"""Tests of strategies made from a model and the settings of a query."""

import functools

import pytest

from fkjax.acquisition import Settings, make_strategy
from fkjax.base import Strategy, UserError

SETTINGS = Settings(budget=3, taps=("fc1",), num_passes=7)


def seen(**given):
    """Returns a strategy whose query is the keywords of its factory."""
    return Strategy(frozenset(), lambda key, view: given)


def given(factory, model="a model"):
    return make_strategy(factory, model, SETTINGS).query(None, None)


def test_a_factory_is_given_the_settings_that_it_names():
    def factory(model, *, budget, num_passes, power=2):
        return seen(model=model, budget=budget, num_passes=num_passes, power=power)

    expected = {"model": "a model", "budget": 3, "num_passes": 7, "power": 2}
    assert given(factory) == expected


def test_keywords_of_its_own_are_fixed_by_partial():
    def factory(model, *, budget, power):
        return seen(budget=budget, power=power)

    assert given(functools.partial(factory, power=3)) == {"budget": 3, "power": 3}
    # A fixed keyword takes precedence over the setting of the same name.
    fixed = functools.partial(factory, power=3, budget=1)
    assert given(fixed) == {"budget": 1, "power": 3}


def test_a_factory_of_any_keywords_is_given_all():
    def factory(model, *, budget, **rest):
        return seen(budget=budget, **rest)

    assert given(factory) == vars(SETTINGS)


def test_a_keyword_that_is_no_setting_needs_a_value():
    def factory(model, *, budget, power):
        return seen(budget=budget, power=power)

    with pytest.raises(UserError, match="needs power, which is no setting"):
        given(factory)
