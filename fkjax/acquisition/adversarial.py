"""Variational adversarial active learning (VAAL).

A beta-VAE is trained on the whole pool. A discriminator is trained to predict from the
latents of an example whether it is labeled, and the encoder to make all examples look
labeled. The examples that the discriminator still recognizes as unlabeled are queried.
The classifier is not used.

Source: Sinha, Ebrahimi & Darrell 2019, "Variational Adversarial Active Learning".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fkjax.acquisition.access import require_pixels
from fkjax.acquisition.ranking import highest
from fkjax.acquisition.vae import Autoencoder, Discriminator, autoencoder, discriminator
from fkjax.base import Examples, Model, Query, Strategy, View, key_for
from fkjax.parallel.examples import take
from fkjax.parallel.mapping import map_examples


class Networks(NamedTuple):
    """The two networks that are trained against each other.

    Attributes:
        vae: the encoder and the decoder.
        discriminator: the discriminator, whose logit is the log-odds of "unlabeled".
    """

    vae: Autoencoder
    discriminator: Discriminator


class Learned(NamedTuple):
    """The parameters of the two networks.

    Attributes:
        vae: parameters of the autoencoder.
        discriminator: parameters of the discriminator.
    """

    vae: Any
    discriminator: Any


class Hyperparameters(NamedTuple):
    """The hyperparameters of the training; see `vaal` for the choice of the defaults.

    Attributes:
        beta: weight of the Kullback-Leibler divergence.
        adversarial_weight: weight of the encoder's loss against the discriminator.
        num_steps: number of alternating steps of the two networks.
        batch_size: number of labeled examples in one step, and of unlabeled ones.
        learning_rate: learning rate of Adam, for both networks.
    """

    beta: float = 1.0
    adversarial_weight: float = 1.0
    num_steps: int | jax.Array = 1000
    batch_size: int = 64
    learning_rate: float = 5e-4


def networks(image_shape: tuple[int, int, int], *, latent_size: int = 32) -> Networks:
    """Returns the two networks for images of shape (H, W, channels)."""
    return Networks(
        autoencoder(image_shape, latent_size=latent_size),
        discriminator(latent_size=latent_size),
    )


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Computes KL(N(mean, diag(variance)) || N(0, 1)), in nats.

    Args:
        mean: means of the Gaussian. Shape [..., Z].
        log_variance: logarithms of its variances. Shape [..., Z].

    Returns:
        The divergence. Shape [...].
    """
    return (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(axis=-1) / 2


def vae_loss(
    parameters: Any,
    key: jax.Array,
    vae: Autoencoder,
    images: jax.Array,
    *,
    beta: float,
) -> tuple[jax.Array, jax.Array]:
    """Computes the mean of |x - x'|^2 + beta KL(q(z | x) || N(0, 1)).

    The reconstruction x' is decoded from one sample z ~ q. The squares are summed over
    the pixels, as the divergence is summed over the latents: the mean over the pixels
    would be so small by comparison that the best encoder ignores its input.

    Args:
        parameters: the parameters of the autoencoder.
        key: random key of z.
        vae: the autoencoder.
        images: images in 0..1. Shape [N, H, W, channels].
        beta: weight of the divergence.

    Returns:
        The mean, of shape [], and the means of q, of shape [N, Z].
    """
    mean, log_variance = vae.encode(parameters, images)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    decoded = vae.decode(parameters, mean + jnp.exp(log_variance / 2) * noise)
    errors = ((images - decoded) ** 2).sum(axis=(1, 2, 3))
    return (errors + beta * divergence(mean, log_variance)).mean(), mean


def train(
    key: jax.Array,
    players: Networks,
    images: Examples,
    is_unlabeled: jax.Array,
    hyperparameters: Hyperparameters,
) -> Learned:
    """Trains both networks from scratch, in turns (Sinha et al. 2019, Algorithm 1).

    Batches are drawn with replacement, since the labeled set may be smaller than a
    batch.

    Args:
        key: random key of the initial parameters, the batches and the latents.
        players: the networks to train.
        images: images of the pool, in 0..255. Shape [N, H, W, channels].
        is_unlabeled: whether each example is unlabeled, with at least one labeled and
            one unlabeled example. Shape [N] bool.
        hyperparameters: the hyperparameters of the training.

    Returns:
        The parameters after the last step.
    """
    h = hyperparameters
    adam = optax.adam(h.learning_rate)
    labeled_first = jnp.argsort(is_unlabeled)
    num_labeled = (~is_unlabeled).sum()

    def draw(key: jax.Array, start: Any, end: Any) -> jax.Array:
        places = jax.random.randint(key, (h.batch_size,), start, end, jnp.int32)
        return scaled(take(images, labeled_first[places]))

    def vae_objective(
        parameters: Any, opponent: Any, key: jax.Array, batches: jax.Array
    ) -> jax.Array:
        # Both batches have the same size and take one pass: their mean loss is half
        # the sum of the two losses.
        loss, mean = vae_loss(parameters, key, players.vae, batches, beta=h.beta)
        logits = players.discriminator.apply(opponent, mean)
        fooled = -jax.nn.log_sigmoid(-logits).mean()
        return loss + h.adversarial_weight * fooled

    def discriminator_objective(parameters: Any, mean: jax.Array) -> jax.Array:
        logits = players.discriminator.apply(parameters, mean)
        labeled, unlabeled = jnp.split(logits, 2)
        right = jax.nn.log_sigmoid(-labeled) + jax.nn.log_sigmoid(unlabeled)
        return -right.mean()

    def step(i: jax.Array, state: tuple) -> tuple:
        (vae, opponent), (vae_state, opponent_state) = state
        labeled = draw(key_for(key, "labelled batch", i), 0, num_labeled)
        unlabeled = draw(
            key_for(key, "unlabelled batch", i), num_labeled, len(is_unlabeled)
        )
        batches = jnp.concatenate([labeled, unlabeled])

        gradient = jax.grad(vae_objective)(
            vae, opponent, key_for(key, "latents", i), batches
        )
        updates, vae_state = adam.update(gradient, vae_state)
        vae = optax.apply_updates(vae, updates)

        mean, _ = players.vae.encode(vae, batches)
        gradient = jax.grad(discriminator_objective)(opponent, mean)
        updates, opponent_state = adam.update(gradient, opponent_state)
        opponent = optax.apply_updates(opponent, updates)
        return Learned(vae, opponent), (vae_state, opponent_state)

    start = Learned(
        players.vae.init(key_for(key, "autoencoder")),
        players.discriminator.init(key_for(key, "discriminator")),
    )
    states = (adam.init(start.vae), adam.init(start.discriminator))
    return jax.lax.fori_loop(0, h.num_steps, step, (start, states))[0]


def scaled(images: jax.Array) -> jax.Array:
    """Scales images from 0..255 to 0..1, in float32."""
    require_pixels(images, "the autoencoder of vaal")
    return images.astype(jnp.float32) / 255


def vaal(
    model: Model,
    *,
    budget: int,
    latent_size: int = 32,
    beta: float = 1.0,
    adversarial_weight: float = 1.0,
    num_steps: int = 1000,
    train_batch_size: int = 64,
    learning_rate: float = 5e-4,
) -> Strategy:
    """Returns the strategy that queries the highest log-odds of being unlabeled.

    The losses, their weights, the size of the latents and the learning rate are those
    of Sinha et al. 2019. The networks and the number of steps are much smaller. Sinha
    et al. use four convolutions of 128 to 1024 filters with batch normalization, a
    corresponding decoder, and a discriminator with four hidden layers of 512 units,
    which their script trains for 100,000 steps. Here the autoencoder consists of
    convolutions of 4 x 4 patches and dense layers of 256 units, the discriminator has
    two hidden layers of 256 units, and the training takes 1,000 steps. For MNIST, that
    is a few seconds on one core; twice as many steps lower the loss of the autoencoder
    by a further 7%. With 125 labeled images, the discriminator has memorized nearly
    all of them by then.

    The scores are the log-odds of "unlabeled" of the discriminator. If no example is
    labeled, the query is drawn at random and the scores are NaN.

    >>> from fkjax.models import lenet
    >>> vaal(lenet((28, 28, 1), 10), budget=125).sees
    frozenset()

    Args:
        model: the classifier, of which only the shape of the images is used.
        budget: number of examples to query, B.
        latent_size: number of latents of the autoencoder, Z.
        beta: weight of the Kullback-Leibler divergence.
        adversarial_weight: weight of the encoder's loss against the discriminator.
        num_steps: number of alternating steps of the two networks.
        train_batch_size: number of labeled examples in one step, and of unlabeled ones;
            also the number of examples that are scored at a time.
        learning_rate: learning rate of Adam.

    Returns:
        The strategy.
    """
    players = networks(model.image_shape, latent_size=latent_size)
    hyperparameters = Hyperparameters(
        beta, adversarial_weight, num_steps, train_batch_size, learning_rate
    )

    def query(key: jax.Array, view: View) -> Query:
        def learned_scores() -> jax.Array:
            learned = train(key, players, view.pool, view.is_unlabeled, hyperparameters)

            def score(image: jax.Array) -> jax.Array:
                mean, _ = players.vae.encode(learned.vae, scaled(image)[None])
                return players.discriminator.apply(learned.discriminator, mean)[0]

            return map_examples(score, view.pool, batch_size=train_batch_size)

        scores = jax.lax.cond(
            view.is_unlabeled.all(),
            lambda: jnp.full_like(jax.eval_shape(learned_scores), jnp.nan),
            learned_scores,
        )
        return highest(key, scores, view.is_unlabeled, budget=budget)

    return Strategy(frozenset(), query)
