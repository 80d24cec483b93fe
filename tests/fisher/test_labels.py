"""Labels that are no class: an error where they are known, NaN in a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition.pseudo_label import given
from fkjax.fisher import capture, descriptor, fisher_vector, fisher_vectors
from fkjax.fisher.labels import class_weights
from fkjax.models import from_outputs
from fkjax.sketch import embed, identity

THETA = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)}
X = jnp.ones(6)
OUTPUTS = from_outputs(2, 4)


def log_probs_fn(theta, x):
    return jax.nn.log_softmax(x @ theta["w"])


def embedded(label, apply=embed):
    exact = identity()
    state = exact.init(jax.random.key(0), THETA)
    labels = jnp.asarray(label)[None]
    return apply(log_probs_fn, THETA, X[None], labels, exact, state)


BY_LABEL = {
    "fisher_vector": lambda s: fisher_vector(log_probs_fn, THETA, X, s),
    "fisher_vectors": lambda s: fisher_vectors(
        log_probs_fn, THETA, X[None], jnp.asarray(s)[None]
    ),
    "capture": lambda s: capture.capture(log_probs_fn, THETA, X, s).factors["w"][0].d,
    "embed": embedded,
    "descriptor": lambda s: (
        descriptor(OUTPUTS, None, X[None, None], given(s), taps=["logits"]).g
    ),
}


@pytest.mark.parametrize("name", BY_LABEL)
@pytest.mark.parametrize("label", [-1, 4, 99])
def test_what_is_no_class(name, label):
    with pytest.raises(ValueError, match=f"from 0 to 3, got {label} at position 0"):
        BY_LABEL[name](label)
    for leaf in jax.tree.leaves(jax.jit(BY_LABEL[name])(label)):
        assert jnp.isnan(leaf).all()


@pytest.mark.parametrize("name", BY_LABEL)
def test_every_class_is_one(name):
    for label in (0, 3):
        for leaf in jax.tree.leaves(jax.jit(BY_LABEL[name])(label)):
            assert jnp.isfinite(leaf).all()
        BY_LABEL[name](label)


def test_the_message_counts_the_labels():
    labels = jnp.array([0, 3, 4, -1])
    with pytest.raises(ValueError, match=r"got 4 at position 2 \(2 of 4 labels"):
        fisher_vectors(log_probs_fn, THETA, jnp.ones((4, 6)), labels)


def test_a_log_probability_of_minus_infinity_has_a_finite_vector():
    """A network may mask a class."""

    def masked(theta, x):
        logits = (x @ theta["w"]).at[1].set(-jnp.inf)
        return jax.nn.log_softmax(logits)

    vector = fisher_vector(masked, THETA, X, 0)["w"]
    assert jnp.isfinite(vector).all() and (vector[:, 1] == 0).all()


def test_weights_are_of_the_type_of_the_log_probabilities():
    log_p = jnp.zeros(3, jnp.bfloat16)
    weights = class_weights(jnp.uint8(2), log_p)
    assert weights.dtype == jnp.bfloat16 and weights.tolist() == [0, 0, 1]
