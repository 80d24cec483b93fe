"""Class probabilities of pool examples under the class shares of the pool."""

import jax
import jax.numpy as jnp

_NUM_STEPS = 200  # of expectation maximization


def pool_posterior(
    log_probs: jax.Array, labels: jax.Array | None, prior: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Estimates the pool's class shares q, and p(y | x) under them, by EM.

    Args:
        log_probs: log-probabilities for the class shares `prior`. The probabilities of
            an example with a NaN among them are taken to be q. Shape [N, C].
        labels: known labels; -1 for the other examples. None if none is known.
            Shape [N].
        prior: class shares for which the log-probabilities hold, positive. Shape [C].

    Returns:
        The shares q, of shape [C], and the probabilities r_ic, of shape [N, C]; those
        of an example with a known label are 0 and 1.

    Source: Saerens, Latinne and Decaestecker 2002.
    """
    num, num_classes = log_probs.shape
    labels = jnp.full(num, -1) if labels is None else labels
    known = jax.nn.one_hot(labels, num_classes, dtype=log_probs.dtype)
    log_prior = jnp.log(prior).astype(log_probs.dtype)

    def of_one(log_p: jax.Array, known: jax.Array, log_q: jax.Array) -> jax.Array:
        log_likelihood = jnp.where(jnp.isnan(log_p).any(), 0, log_p - log_prior)
        return jnp.where(known.any(), known, jax.nn.softmax(log_likelihood + log_q))

    def posterior(q: jax.Array) -> jax.Array:
        return jax.vmap(of_one, (0, 0, None))(log_probs, known, jnp.log(q))

    def step(_: int, q: jax.Array) -> jax.Array:
        return jnp.maximum(posterior(q).mean(axis=0), 1e-8)

    q = jax.lax.fori_loop(0, _NUM_STEPS, step, jnp.exp(log_prior))
    return q, posterior(q)
