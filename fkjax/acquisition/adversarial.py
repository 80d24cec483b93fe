"""Query what is easily told from the labelled: variational adversarial learning.

Source: Sinha, Ebrahimi & Darrell 2019, "Variational Adversarial Active Learning"
(VAAL). A beta-VAE learns latents of the whole pool, and a discriminator to tell from
them whether an example is labelled, while the encoder tries to make all look labelled.
Where it fails, the labelled set lacks something. The classifier plays no part.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fkjax.acquisition.ranking import highest
from fkjax.acquisition.vae import Autoencoder, Discriminator, autoencoder, discriminator
from fkjax.base import Examples, Model, Query, Strategy, View, key_for
from fkjax.parallel.examples import take
from fkjax.parallel.mapping import map_examples


class Networks(NamedTuple):
    """The two players.

    Attributes:
        vae: the encoder and the decoder.
        discriminator: its logit is the log-odds of "unlabelled".
    """

    vae: Autoencoder
    discriminator: Discriminator


class Learned(NamedTuple):
    """What the players have learned.

    Attributes:
        vae: parameters of the autoencoder.
        discriminator: parameters of the discriminator.
    """

    vae: Any
    discriminator: Any


class Hyperparameters(NamedTuple):
    """How the players are trained; `vaal` says why so.

    Attributes:
        beta: the weight of the Kullback-Leibler divergence.
        adversarial_weight: that of fooling the discriminator.
        num_steps: alternating steps of the two.
        batch_size: labelled examples a step, and as many unlabelled ones.
        learning_rate: of Adam, for both.
    """

    beta: float = 1.0
    adversarial_weight: float = 1.0
    num_steps: int | jax.Array = 1000
    batch_size: int = 64
    learning_rate: float = 5e-4


def networks(image_shape: tuple[int, int, int], *, latent_size: int = 32) -> Networks:
    """The players for images of shape (H, W, channels)."""
    return Networks(
        autoencoder(image_shape, latent_size=latent_size),
        discriminator(latent_size=latent_size),
    )


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """KL(N(mean, diag(variance)) || N(0, 1)), in nats.

    Args:
        mean: Shape [..., Z].
        log_variance: Shape [..., Z].

    Returns:
        Shape [...].
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
    """Mean of |x - x'|^2 + beta KL(q(z | x) || N(0, 1)), x' decoded from one z ~ q.

    The squares are summed over the pixels, as the divergence is over the latents.
    Their mean would be so small beside it that the best encoder ignores its input.

    Args:
        parameters: of the autoencoder.
        key: draws z.
        vae: the autoencoder.
        images: in 0..1. Shape [N, H, W, channels].
        beta: the weight of the divergence.

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
    """Trains both players from scratch, in turns (Sinha et al. 2019, Algorithm 1).

    A batch is drawn with replacement: the labelled set may be smaller.

    Args:
        key: gives the first parameters, the batches and the latents.
        players: what to train.
        images: of the pool, in 0..255. Shape [N, H, W, channels].
        is_unlabeled: of both kinds at least one. Shape [N] bool.
        hyperparameters: steps, weights and rates.

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
        # One pass for both batches, of equal size: half the sum of their two losses.
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
    """From 0..255 to 0..1, in float32."""
    return images.astype(jnp.float32) / 255


def vaal(
    model: Model,
    *,
    budget: int,
    latent_size: int = 32,
    beta: float = 1.0,
    adversarial_weight: float = 1.0,
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 5e-4,
) -> Strategy:
    """Queries what the discriminator is surest is unlabelled.

    The game, its weights, the size of the latents and the learning rate are those of
    Sinha et al. 2019. The networks and their training are far smaller. Theirs are four
    convolutions of 128 to 1024 filters with batch normalisation, a decoder to match,
    and a discriminator of four hidden layers of 512, in 100,000 steps of their script.
    Here patches of 4 x 4 pixels, dense layers of 256 and a discriminator of two such
    take a thousand steps. Of MNIST that is some seconds of a core, and twice as many
    lower the autoencoder's loss by 7% more. With 125 labelled images the discriminator
    by then knows nearly all of them by heart.

    Scores are the discriminator's log-odds of "unlabelled". While nothing is labelled
    there is nothing to tell apart: then the query is by lot, and they are NaN.

    >>> from fkjax.models import lenet
    >>> vaal(lenet((28, 28, 1), 10), budget=125).sees
    frozenset()

    Args:
        model: gives the shape of the images.
        budget: B.
        latent_size: of the autoencoder.
        beta: the weight of the Kullback-Leibler divergence.
        adversarial_weight: that of fooling the discriminator.
        num_steps: alternating steps of the two players.
        batch_size: labelled examples a step, and as many unlabelled ones; also how
            many are scored at a time.
        learning_rate: of Adam.
    """
    players = networks(model.image_shape, latent_size=latent_size)
    hyperparameters = Hyperparameters(
        beta, adversarial_weight, num_steps, batch_size, learning_rate
    )

    def query(key: jax.Array, view: View) -> Query:
        def learned_scores() -> jax.Array:
            learned = train(key, players, view.pool, view.is_unlabeled, hyperparameters)

            def score(image: jax.Array) -> jax.Array:
                mean, _ = players.vae.encode(learned.vae, scaled(image)[None])
                return players.discriminator.apply(learned.discriminator, mean)[0]

            return map_examples(score, view.pool, batch_size=batch_size)

        scores = jax.lax.cond(
            view.is_unlabeled.all(),
            lambda: jnp.full(len(view.pool), jnp.nan),
            learned_scores,
        )
        return highest(key, scores, view.is_unlabeled, budget=budget)

    return Strategy(frozenset(), query)
