"""VAAL: the losses computed in other ways, and the training of both networks."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.acquisition import adversarial
from fkjax.acquisition.adversarial import Hyperparameters, Networks, vaal
from fkjax.acquisition.vae import Autoencoder, Discriminator
from fkjax.base import View
from fkjax.models import lenet

NUM, NUM_LABELED, STEPS = 60, 20, 150
MODEL = lenet((8, 8, 1), 10)
PLAYERS = adversarial.networks((8, 8, 1))


@pytest.fixture(scope="module")
def pool():
    """Noisy images: dark ones, of which the first are labeled, then bright ones."""
    brightness = np.where(np.arange(NUM) < 40, 50, 200)[:, None, None, None]
    noise = np.random.default_rng(0).integers(-50, 50, (NUM, 8, 8, 1))
    return View(
        None,
        jnp.asarray(brightness + noise, jnp.uint8),
        jnp.arange(NUM) >= NUM_LABELED,
        *[None] * 4,
    )


@pytest.fixture(scope="module")
def train(pool):
    """`train(num_steps, weight)`: returns the parameters, by one compiled program."""

    @jax.jit
    def fit(num_steps, weight):
        return adversarial.train(
            jax.random.key(0),
            PLAYERS,
            pool.pool,
            pool.is_unlabeled,
            Hyperparameters(
                num_steps=num_steps, adversarial_weight=weight, batch_size=16
            ),
        )

    return lambda num_steps=STEPS, weight=1.0: fit(num_steps, weight)


@pytest.fixture(scope="module")
def ask():
    """The compiled query, whose budget is the whole pool."""
    return jax.jit(vaal(MODEL, budget=NUM, num_steps=STEPS, train_batch_size=16).query)


def logits(learned, images):
    mean, _ = PLAYERS.vae.encode(learned.vae, adversarial.scaled(images))
    return PLAYERS.discriminator.apply(learned.discriminator, mean)


def test_the_divergence_is_that_of_two_normals():
    """Compares with the sum of numerical integrals over independent latents."""
    mean, variance = np.array([0.3, -2.0, 0.0]), np.array([0.5, 1.5, 1.0])
    z = np.linspace(-15, 15, 200_001)[:, None]

    def log_density(mean, variance):
        return -((z - mean) ** 2) / variance / 2 - np.log(2 * np.pi * variance) / 2

    log_q, log_p = log_density(mean, variance), log_density(0.0, 1.0)
    expected = np.trapezoid(np.exp(log_q) * (log_q - log_p), z, axis=0).sum()
    result = adversarial.divergence(jnp.asarray(mean), jnp.log(variance))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_the_loss_adds_squared_errors_and_the_divergence(beta):
    """Uses a decoder whose pixels all equal z."""
    rng = np.random.default_rng(0)
    images, mean = rng.random((50_000, 2, 1, 1)), np.full((50_000, 1), 0.2)
    vae = Autoencoder(
        lambda key: None,
        lambda parameters, x: (jnp.asarray(mean), jnp.full(mean.shape, np.log(0.25))),
        lambda parameters, z: jnp.broadcast_to(z[..., None, None], images.shape),
    )
    loss, _ = adversarial.vae_loss(
        None, jax.random.key(0), vae, jnp.asarray(images), beta=beta
    )
    errors = ((images - 0.2) ** 2).mean() + 0.25  # in each of 2 pixels
    divergence = (0.2**2 + 0.25 - 1 - np.log(0.25)) / 2
    np.testing.assert_allclose(loss, 2 * errors + beta * divergence, rtol=2e-2)


def test_the_autoencoder_learns(train, pool):
    images = adversarial.scaled(pool.pool)
    before, after = (
        adversarial.vae_loss(
            train(steps).vae, jax.random.key(1), PLAYERS.vae, images, beta=1.0
        )[0]
        for steps in (0, STEPS)
    )
    assert after < before / 3


def test_batches_are_half_labelled_and_half_not():
    """Uses networks that record their images, which differ in their pixels."""
    labeled = {3, 7}
    seen = collections.defaultdict(set)

    def note(pixels):
        first, second = np.split(np.rint(pixels.ravel()).astype(int), 2)
        seen["labelled"] |= set(first.tolist())
        seen["unlabelled"] |= set(second.tolist())

    def encode(parameters, images):
        jax.debug.callback(note, 255 * images)
        mean = jnp.zeros((len(images), 1)) + parameters
        return mean, mean

    vae = Autoencoder(
        lambda key: jnp.zeros(()), encode, lambda parameters, z: z[..., None, None]
    )
    discriminator = Discriminator(
        lambda key: jnp.zeros(()), lambda parameters, z: z[:, 0] + parameters
    )
    adversarial.train(
        jax.random.key(0),
        Networks(vae, discriminator),
        jnp.arange(12, dtype=jnp.uint8).reshape(12, 1, 1, 1),
        jnp.asarray([i not in labeled for i in range(12)]),
        Hyperparameters(num_steps=20, batch_size=8),
    )
    jax.effects_barrier()
    assert seen == {"labelled": labeled, "unlabelled": set(range(12)) - labeled}


def test_the_encoder_hides_what_the_discriminator_looks_for(train, pool):
    """A higher adversarial weight lowers the log-odds of unlabeled bright images."""
    bright = pool.pool[40:]
    odds = [
        float(logits(train(STEPS, weight), bright).mean()) for weight in (0.0, 100.0)
    ]
    assert odds[0] > odds[1] + 1


def test_what_is_unlike_the_labelled_is_queried(ask, pool):
    query = ask(jax.random.key(0), pool)
    assert set(query.indices[:20].tolist()) == set(range(40, 60))
    assert float(query.scores[19]) > 0


def test_scores_are_the_log_odds_of_unlabelled(ask, train, pool):
    query = ask(jax.random.key(0), pool)
    expected = logits(train(), pool.pool)[query.indices]
    np.testing.assert_allclose(query.scores, expected, rtol=0.02, atol=0.02)


def test_the_unlabelled_come_first_in_descending_scores(ask, pool):
    query = ask(jax.random.key(0), pool)
    assert sorted(query.indices.tolist()) == list(range(NUM))
    assert set(query.indices[:40].tolist()) == set(range(NUM_LABELED, NUM))
    scores = np.asarray(query.scores[:40])
    assert (np.diff(scores) <= 0).all() and scores[0] > scores[-1]
    assert (query.targets == -1).all() and (query.pseudo_labels == -1).all()


def test_a_query_repeats_by_its_key(ask, pool):
    first, again, other = (ask(jax.random.key(seed), pool) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.indices != other.indices).any()


def test_the_first_query_is_by_lot(ask, pool):
    pool = pool._replace(is_unlabeled=jnp.ones(NUM, bool))
    queries = [ask(jax.random.key(seed), pool) for seed in range(30)]
    assert all(np.isnan(query.scores).all() for query in queries)
    assert len({int(query.indices[0]) for query in queries}) > 15


@pytest.mark.parametrize("use", [lambda fn: fn, jax.vmap], ids=["alone", "mapped"])
@pytest.mark.parametrize("size", [(9, 7, 3), (224, 200, 3)])
def test_images_of_any_size_are_queried(size, use):
    lead = () if use is not jax.vmap else (2,)
    keys = jax.random.split(jax.random.key(0), lead) if lead else jax.random.key(0)
    pool = View(
        None,
        jax.ShapeDtypeStruct((*lead, 12, *size), jnp.uint8),
        jax.ShapeDtypeStruct((*lead, 12), bool),
        *[None] * 4,
    )
    model = MODEL._replace(image_shape=size)
    query = jax.eval_shape(use(vaal(model, budget=3).query), keys, pool)
    assert all(field.shape == (*lead, 3) for field in query[:4])
