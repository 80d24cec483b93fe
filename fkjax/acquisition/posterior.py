"""Class probabilities of pool examples under the class shares of the pool."""

import jax
import jax.numpy as jnp

_NUM_STEPS = 200  # of expectation maximization


def pool_posterior(
    log_probs: jax.Array, labels: jax.Array, prior: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Estimates the pool's class shares q, and p(y | x) under them, by EM.

    Args:
        log_probs: log-probabilities for the class shares `prior`. Shape [N, C].
        labels: known labels; -1 for the other examples. Shape [N].
        prior: class shares for which the log-probabilities hold, positive. Shape [C].

    Returns:
        The shares q, of shape [C], and the probabilities r_ic, of shape [N, C]; those
        of an example with a known label are 0 and 1.

    Source: Saerens, Latinne and Decaestecker 2002.
    """
    known = jax.nn.one_hot(labels, log_probs.shape[1], dtype=log_probs.dtype)
    is_known = (labels >= 0)[:, None]
    log_likelihoods = log_probs - jnp.broadcast_to(jnp.log(prior), log_probs.shape)

    def posterior(q: jax.Array) -> jax.Array:
        joint = log_likelihoods + jnp.broadcast_to(jnp.log(q), log_probs.shape)
        return jnp.where(is_known, known, jax.nn.softmax(joint))

    def step(_: int, q: jax.Array) -> jax.Array:
        return jnp.maximum(posterior(q).mean(axis=0), 1e-8)

    q = jax.lax.fori_loop(0, _NUM_STEPS, step, prior)
    return q, posterior(q)
