"""Oracles, and the protection of hidden labels from strategies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import access
from fkjax.base import Strategy, View
from fkjax.experiment import oracle

FIELDS = ("validation", "validation_labels", "validation_mistakes")


def full_view():
    return View(
        {},
        jnp.zeros((4, 2, 2, 1)),
        jnp.ones(4, bool),
        jnp.zeros((3, 2, 2, 1)),
        jnp.arange(3),
        jnp.ones(3, bool),
        jnp.zeros(0, int),
    )


def restricted(sees, reads=lambda key, view: None):
    strategy = Strategy(frozenset(sees), reads)
    return access.restrict(full_view(), strategy, hidden_labels=lambda: jnp.arange(4))


@pytest.mark.parametrize(
    "use",
    [
        lambda labels: labels[0],
        lambda labels: labels + 1,
        lambda labels: labels == 1,
        lambda labels: jnp.asarray(labels),
        lambda labels: np.asarray(labels),
        lambda labels: labels.shape,
        lambda labels: len(labels),
        lambda labels: list(labels),
        lambda labels: jnp.where(labels, 1, 0),
    ],
)
@pytest.mark.parametrize("field", [*FIELDS, "pool_labels"])
def test_an_undeclared_field_cannot_be_read(field, use):
    view = restricted(())
    with pytest.raises(access.LabelAccessError, match=field):
        use(getattr(view, field))


def test_nor_under_jit():
    peek = jax.jit(lambda view: view.pool_labels.sum())
    with pytest.raises(access.LabelAccessError, match="pool_labels"):
        peek(restricted(FIELDS))


@pytest.mark.parametrize("field", FIELDS)
def test_a_declared_field_is_given(field):
    view = restricted({field})
    np.testing.assert_array_equal(getattr(view, field), getattr(full_view(), field))


def test_hidden_labels_are_only_fetched_for_who_declared_them():
    np.testing.assert_array_equal(restricted({"pool_labels"}).pool_labels, range(4))

    def alarm():
        raise AssertionError("hidden labels were fetched")

    access.restrict(
        full_view(), Strategy(frozenset(FIELDS), lambda k, v: None), hidden_labels=alarm
    )


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="test_labels"):
        restricted({"test_labels"})


def test_noise_changes_the_stated_share_to_other_classes():
    labels = np.arange(20_000) % 10
    noisy = oracle.noisy_labels(jax.random.key(0), labels, num_classes=10, rate=0.3)
    share = (noisy != labels).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 20_000)
    assert set(((noisy - labels) % 10)[noisy != labels]) == set(range(1, 10))
    again = oracle.noisy_labels(jax.random.key(0), labels, num_classes=10, rate=0.3)
    np.testing.assert_array_equal(noisy, again)


def test_without_noise_the_answers_are_the_labels():
    labels = np.array([3, 1, 4])
    noisy = oracle.noisy_labels(jax.random.key(0), labels, num_classes=10, rate=0)
    ask = oracle.array_oracle(noisy)
    np.testing.assert_array_equal(ask(np.array([2, 0])), [4, 3])
