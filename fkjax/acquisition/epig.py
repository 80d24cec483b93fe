"""Expected predictive information gain: what a label says about the validation set."""

import jax
import jax.numpy as jnp

from fkjax.acquisition.ranking import highest
from fkjax.acquisition.uncertainty import stochastic_log_probs
from fkjax.base import Model, Query, Strategy, UserError, View, key_for
from fkjax.parallel.mapping import map_examples


def epig(
    model: Model,
    *,
    budget: int,
    num_passes: int = 128,
    batch_size: int = 100,
    is_trained: bool = False,
) -> Strategy:
    """Returns the strategy of the expected predictive information gain.

    The score of an example x is the mean over the validation examples x' of the mutual
    information of the two predictions, I(y; y') in nats. The predictions are those of
    T passes with dropout, whose masks are the same for all examples, or of the members
    of an ensemble, or of both.

    If no pool example is labeled and the model is not trained, the query is random.

    Source: Bickford Smith et al. 2023 (EPIG).

    Args:
        model: the classifier.
        budget: number of examples to query, B.
        num_passes: number of passes, T, of each member of an ensemble.
        batch_size: number of images whose passes are computed at a time. It affects the
            speed, not the result.
        is_trained: whether the model has been trained on labels before any pool example
            is labeled.

    Raises:
        UserError: if the model has neither dropout nor members.
    """
    has_dropout = any(rate > 0 for _, rate in model.dropout)
    if not has_dropout and model.member is None:
        raise UserError(
            "epig needs a model with dropout or an ensemble, without which all passes "
            "are equal: raise --conv-dropout or --dense-dropout, or give --ensemble"
        )
    at_once = max(1, batch_size // max(1, num_passes // 8))

    def query(key: jax.Array, view: View) -> Query:
        def passes(image: jax.Array) -> jax.Array:
            log_p = stochastic_log_probs(
                key_for(key, "masks"),
                model,
                view.variables,
                image,
                num_passes=num_passes if has_dropout else 1,
            )
            return jnp.exp(log_p)

        def computed() -> tuple[jax.Array, jax.Array]:
            of_targets = map_examples(passes, view.validation, batch_size=at_once)

            def score(image: jax.Array) -> jax.Array:
                return predictive_information(passes(image), of_targets)

            scores = map_examples(score, view.pool, batch_size=at_once)
            return scores, ~jnp.isfinite(of_targets).all(axis=(1, 2))

        def nothing() -> tuple[jax.Array, jax.Array]:
            shapes = jax.eval_shape(computed)
            return jnp.full_like(shapes[0], jnp.nan), jnp.zeros_like(shapes[1])

        is_random = view.is_unlabeled.all() & (not is_trained)
        scores, is_bad_validation = jax.lax.cond(is_random, nothing, computed)
        found = highest(
            key, scores, view.is_unlabeled, budget=budget, is_trained=is_trained
        )
        return found._replace(is_bad_validation=is_bad_validation)

    return Strategy(frozenset({"validation"}), query)


def predictive_information(p: jax.Array, of_targets: jax.Array) -> jax.Array:
    """Returns the mean over targets of I(y; y'), in nats.

    Args:
        p: class probabilities of an example in each pass. Shape [T, C].
        of_targets: class probabilities of the targets. Shape [M, T, C].
    """

    def one(target: jax.Array) -> jax.Array:
        joint = jnp.matmul(p.T, target, precision=jax.lax.Precision.HIGHEST) / len(p)
        marginals = joint.sum(axis=1), joint.sum(axis=0)
        return sum(map(_entropy, marginals)) - _entropy(joint)

    return jax.vmap(one)(of_targets).mean()


def _entropy(p: jax.Array) -> jax.Array:
    return jax.scipy.special.entr(p).sum()
