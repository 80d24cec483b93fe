"""A round on features and logits, and what its strategies start from, in NumPy."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.acquisition import STRATEGIES, Settings, access, make_strategy
from fkjax.base import PriorCorrection, Variables, View
from fkjax.fisher.kernel import last_layer
from fkjax.models import from_outputs
from fkjax.models.precomputed import FEATURES, LOGITS

GREEDY = [
    *("fisher_ratio", "bait", "vtl", "logdet_mi", "max_det", "fisher_herding"),
    *("class_need_margin", "class_need_ratio", "core_set", "lcmd"),
    *("flqmi", "max_herding"),
]
"""The strategies of `fkjax.acquisition.scene`."""

WIDTH, CLASSES, BUDGET = 4, 3, 10
KERNEL = last_layer(FEATURES, LOGITS, CLASSES)
MODEL = from_outputs(WIDTH, CLASSES)
CORRECTION = PriorCorrection(0.8, 1.3, np.float32([0.5, -0.2, -1.0]))


def examples(rng, num, classes=range(CLASSES)):
    """Images of features and logits, and their true classes."""
    labels = rng.choice(list(classes), num)
    features = rng.normal(size=(num, WIDTH)) + 2 * np.eye(CLASSES, WIDTH)[labels]
    logits = features[:, :CLASSES] + 0.5 * rng.normal(size=(num, CLASSES))
    images = np.concatenate([features, logits], 1)[:, None, None].astype(np.float32)
    return images, labels.astype(np.int32)


def view_of(seed=0, num=40, *, pool_classes=range(CLASSES), classes=range(CLASSES)):
    """A view of a round in which a quarter of the pool is labeled; and the truth."""
    rng = np.random.default_rng(seed)
    pool, truth = examples(rng, num, pool_classes)
    validation, validation_labels = examples(rng, 12, classes)
    is_unlabeled = rng.random(num) < 0.75
    view = View(
        variables=Variables({}),
        pool=jnp.asarray(pool),
        is_unlabeled=jnp.asarray(is_unlabeled),
        validation=jnp.asarray(validation),
        validation_labels=jnp.asarray(validation_labels),
        validation_mistakes=jnp.zeros(12, bool),
        pool_labels=jnp.zeros(0, jnp.int32),
        labels=jnp.asarray(np.where(is_unlabeled, -1, truth), jnp.int32),
        correction=jax.tree.map(jnp.asarray, CORRECTION),
    )
    return view, truth


@functools.cache
def strategy(name, *, trains_on_validation=True, budget=BUDGET, kernel=KERNEL):
    """The strategy, compiled."""
    settings = Settings(
        budget=budget,
        taps=MODEL.taps,
        kernel=kernel,
        trains_on_validation=trains_on_validation,
        is_trained=True,
    )
    made = make_strategy(STRATEGIES[name], MODEL, settings)
    return made._replace(query=jax.jit(made.query))


def ask(name, view, *, truth=None, key=0, **options):
    made = strategy(name, **options)
    seen = access.restrict(view, made, hidden_labels=lambda: jnp.asarray(truth))
    return jax.tree.map(np.asarray, made.query(jax.random.key(key), seen))


def check_greedy(query, scene, gain_of):
    """Each pick has the highest gain, given those before it."""
    picks = query.indices.tolist()
    assert len(set(picks)) == len(picks) and scene.is_open[picks].all()
    is_open = scene.is_open.copy()
    for n, i in enumerate(picks):
        gains = gain_of(picks[:n])
        np.testing.assert_allclose(query.scores[n], gains[i], rtol=1e-3, atol=1e-5)
        assert gains[i] >= gains[is_open].max() - 1e-5
        is_open[i] = False


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def phi_of(images, labels):
    """The Fisher vectors of the last layer, in float64, of length 1."""
    rows = np.asarray(images, float)[:, 0, 0]
    z = np.concatenate([rows[:, :WIDTH], np.ones((len(rows), 1))], axis=1)
    g = np.eye(CLASSES)[labels] - softmax(rows[:, WIDTH:])
    return unit((z[:, :, None] * g[:, None]).reshape(len(rows), -1))


def scene_of(view):
    """What the strategies start from, by their definitions and in float64."""
    pi = np.bincount(view.validation_labels, minlength=CLASSES) + 1.0
    pi /= pi.sum()
    logits = np.asarray(view.pool, float)[:, 0, 0, WIDTH:]
    p = softmax(logits)
    if view.correction is not None:
        tau, temperature, log_ratio = CORRECTION
        p = softmax((np.log(p) + tau * np.asarray(log_ratio, float)) / temperature)
    if view.labels is None:
        labels, is_labeled = np.full(len(p), -1), ~np.asarray(view.is_unlabeled)
    else:
        labels = np.asarray(view.labels)
        is_labeled = labels >= 0
    q = pi
    for _ in range(201):
        r = p / pi * q
        r /= r.sum(axis=1, keepdims=True)
        r[labels >= 0] = np.eye(CLASSES)[labels[labels >= 0]]
        r, q = r, r.mean(axis=0)
    assumed = r.argmax(axis=1)
    return SimpleNamespace(
        r=r,
        p=p,
        q=q,
        pi=pi,
        assumed=assumed,
        phi=phi_of(view.pool, assumed),
        validation=phi_of(view.validation, view.validation_labels),
        is_labeled=is_labeled,
        is_open=np.asarray(view.is_unlabeled),
        labels=np.asarray(view.validation_labels),
    )
