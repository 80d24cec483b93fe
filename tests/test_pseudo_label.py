import jax.numpy as jnp
import numpy as np

from fkjax import pseudo_label
from fkjax.kernel import pearson_features


def test_given_and_argmax():
    log_probs = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    assert pseudo_label.given(jnp.int32(2))(log_probs, {}) == 2
    assert pseudo_label.argmax()(log_probs, {}) == 1


def test_nearest_is_the_label_of_the_best_correlated_example():
    rng = np.random.default_rng(0)
    validation = rng.normal(size=(30, 12)).astype(np.float32)
    labels = rng.integers(0, 5, 30)
    embedded = jnp.stack([pearson_features({"a": jnp.asarray(v)}) for v in validation])
    nearest = pseudo_label.nearest(embedded, jnp.asarray(labels))
    for _ in range(20):
        z = rng.normal(size=12).astype(np.float32)
        best = max(range(30), key=lambda i: np.corrcoef(z, validation[i])[0, 1])
        assert nearest(jnp.zeros(5), {"a": jnp.asarray(z)}) == labels[best]
