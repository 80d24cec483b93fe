import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import pseudo_label
from fkjax.acquisition.perturbation import copies
from fkjax.fisher.descriptors import descriptor
from fkjax.fisher.kernel import pearson_features
from fkjax.models import lenet
from tests.acquisition.test_information import by_channel, by_numpy

TAPS = ("conv1", "fc1", "logits")


def test_given_and_argmax():
    log_probs = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    assert pseudo_label.given(jnp.int32(2))(log_probs, {}, None) == 2
    assert pseudo_label.argmax()(log_probs, {}, None) == 1


def test_nearest_is_the_label_of_the_best_correlated_example():
    rng = np.random.default_rng(0)
    validation = rng.normal(size=(30, 12)).astype(np.float32)
    labels = rng.integers(0, 5, 30)
    embedded = jnp.stack([pearson_features({"a": jnp.asarray(v)}) for v in validation])
    nearest = pseudo_label.nearest(embedded, jnp.asarray(labels))
    for _ in range(20):
        z = rng.normal(size=12).astype(np.float32)
        best = max(range(30), key=lambda i: np.corrcoef(z, validation[i])[0, 1])
        assert nearest(jnp.zeros(5), {"a": jnp.asarray(z)}, None) == labels[best]


def test_a_label_of_equally_near_examples_is_drawn_at_random():
    z = {"a": jnp.array([1.0, 2.0, 4.0])}
    embedded = jnp.stack([pearson_features(z)] * 4 + [-pearson_features(z)])
    labels = jnp.arange(5)

    def label(key):
        return pseudo_label.nearest(embedded, labels, key=key)(jnp.zeros(5), z, None)

    drawn = jax.jit(jax.vmap(label))(jax.random.split(jax.random.key(0), 200))
    counts = np.bincount(drawn, minlength=5)
    assert counts[4] == 0
    assert counts[:4].min() > 30
    assert label(None) == 0


def test_nearest_joint_compares_g_under_the_prediction():
    rng = np.random.default_rng(0)
    z, g = rng.normal(size=(2, 30, 12)).astype(np.float32)
    labels = rng.integers(0, 5, 30)
    embedded = jnp.stack(
        [pearson_features({"a": a}, {"a": b}) for a, b in zip(z, g, strict=True)]
    )
    nearest = pseudo_label.nearest_joint(embedded, jnp.asarray(labels))
    by_z_alone = []
    for _ in range(20):
        mine, *gradients = rng.normal(size=(6, 12)).astype(np.float32)
        log_probs = rng.normal(size=5).astype(np.float32)
        predicted = gradients[log_probs.argmax()]
        of_z = [np.corrcoef(mine, other)[0, 1] for other in z]
        of_g = [np.corrcoef(predicted, other)[0, 1] for other in g]
        by_z_alone.append(labels[np.argmax(of_z)])
        label = nearest(
            jnp.asarray(log_probs),
            {"a": jnp.asarray(mine)},
            lambda label, gradients=gradients: {"a": jnp.asarray(gradients)[label]},
        )
        assert label == labels[np.add(of_z, of_g).argmax()]
        by_z_alone[-1] = by_z_alone[-1] == label
    assert not all(by_z_alone)


@pytest.fixture(scope="module")
def copied(digits):
    """A model, copies of ten digits, and z [N, K, L] and g(c) [N, C, K, L] of them."""
    model = lenet((8, 8, 1), 10, mean=digits.mean, std=digits.std)
    variables = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 10)
    images = jax.vmap(lambda key, x: copies(key, x, model.std, num_copies=6))(
        keys, jnp.asarray(digits.train_images[:10])
    )

    def one(copy, label):
        label_fn = pseudo_label.given(label)
        d = descriptor(model, variables, copy, label_fn, taps=TAPS)
        return [jnp.concatenate([d[t] for t in TAPS]) for d in (d.z, d.g)]

    classes = jnp.arange(10)
    by_class = jax.vmap(one, (None, 0))
    z, g = jax.jit(jax.vmap(jax.vmap(by_class, (0, None)), (0, None)))(images, classes)
    z, g = np.asarray(z, np.float64)[:, :, 0], np.asarray(g, np.float64)
    return model, variables, images, z, g.swapaxes(1, 2)


def traces(z, g):
    return np.einsum("kl,ckl->c", z, g)


def informations(z, g):
    return [by_numpy(z, of_class) for of_class in g]


def informations_of_channels(z, g):
    return [by_channel(z, of_class) for of_class in g]


@pytest.mark.parametrize(
    ("estimator", "reference"),
    [
        (pseudo_label.covariance, traces),
        (pseudo_label.information, informations),
        (pseudo_label.information_diagonal, informations_of_channels),
    ],
)
def test_estimators_are_the_highest_of_numpys(estimator, reference, copied):
    model, variables, images, z, g = copied

    @jax.jit
    @jax.vmap
    def label(copies):
        # The arguments of the label function are not used.
        return estimator(model, variables, copies, taps=TAPS)(None, None, None)

    scores = np.array([reference(*each) for each in zip(z, g, strict=True)])
    assert scores.shape == (10, 10)
    assert len(set(scores.argmax(1))) > 1
    np.testing.assert_array_equal(label(images), scores.argmax(1))


def test_classes_in_parts_are_the_classes_at_once(copied, monkeypatch):
    """Three at a time, the last alone."""
    model, variables, images, z, g = copied
    length = z.shape[-1]
    monkeypatch.setattr(
        pseudo_label, "_BYTES", 3 * 8 * (12 * length**2 + 2 * z.shape[1] * length)
    )

    @jax.jit
    @jax.vmap
    def label(copies):
        estimator = pseudo_label.information_diagonal
        return estimator(model, variables, copies, taps=TAPS)(None, None, None)

    scores = [informations_of_channels(*each) for each in zip(z, g, strict=True)]
    np.testing.assert_array_equal(label(images), np.argmax(scores, axis=1))
