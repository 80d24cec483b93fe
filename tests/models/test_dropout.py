import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.models.dropout import dropout
from tests.tiny import tiny

KEY = jax.random.key(0)


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_drops_the_share_and_keeps_the_mean(rate):
    x = jax.random.normal(jax.random.key(1), (400, 500))
    y = dropout(KEY, {"fc1": rate})("fc1", x)
    share = float((y == 0).mean())
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
    kept = np.asarray(y != 0)
    np.testing.assert_allclose(
        np.asarray(y)[kept], np.asarray(x)[kept] / (1 - rate), rtol=1e-6
    )


def test_other_taps_and_zero_rates_stay_whole():
    x = jnp.ones((3, 4))
    tap = dropout(KEY, {"fc1": 0.0, "conv1": 0.9})
    assert tap("fc1", x) is x
    assert tap("logits", x) is x


def test_masks_differ_between_taps_and_keys_and_repeat_by_key():
    x = jnp.ones((8, 64))
    rates = {"conv1": 0.5, "conv2": 0.5}
    one, other = dropout(KEY, rates), dropout(jax.random.key(7), rates)
    np.testing.assert_array_equal(one("conv1", x), dropout(KEY, rates)("conv1", x))
    assert (one("conv1", x) != one("conv2", x)).any()
    assert (one("conv1", x) != other("conv1", x)).any()


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="fc1"):
        dropout(KEY, {"fc1": rate})


def test_the_mean_pass_of_a_network_is_near_the_whole_one():
    """Dropout after the last ReLU does not change the mean of the logits."""
    model = tiny((8, 8, 1), 10)
    variables = jax.jit(model.init)(KEY)
    images = jnp.full((1, 8, 8, 1), 200, jnp.uint8)

    def passes(key):
        return model.apply(variables, images, dropout(key, {"fc1": 0.5}))

    logits = jax.jit(jax.vmap(passes))(jax.random.split(KEY, 4000))
    whole = jax.jit(model.apply)(variables, images)
    error = logits.std(axis=0) / np.sqrt(4000)
    assert (abs(logits.mean(axis=0) - whole) < 5 * error + 1e-6).all()


@pytest.mark.parametrize("rate", [1 / 2, 1 / 4, 3 / 16, 0.1, 7 / 8])
@pytest.mark.parametrize("shape", [(40, 7), (25, 12, 12, 3), (3, 5, 7)])
def test_every_value_is_dropped_at_the_rate_alone_and_in_pairs(rate, shape):
    """Neighboring values share a random word, and must be dropped independently."""

    def dropped(key):
        return dropout(key, {"tap": rate})("tap", jnp.ones(shape)).reshape(-1)[:60] == 0

    n = 4000
    masks = np.asarray(jax.jit(jax.vmap(dropped))(jax.random.split(KEY, n)), float)
    exact = round(256 * rate) / 256
    error = np.sqrt(exact * (1 - exact) / n)
    np.testing.assert_allclose(masks.mean(axis=0), exact, atol=5 * error)
    covariance = np.cov(masks.T) - np.diag(masks.var(axis=0, ddof=1))
    assert abs(covariance).max() < 6 * exact * (1 - exact) / np.sqrt(n)
