"""Uncertainty sampling: baselines that query the least certain predictions.

The score of an example is computed from its class probabilities p_1 .. p_T in T passes
with dropout (MC-dropout, Gal & Ghahramani 2016), or in one pass without dropout. They
are corrected for the class shares of deployment if the view has a correction.

Each factory takes these arguments:

- `model`: the classifier. With MC-dropout, a model without dropout raises `UserError`.
- `budget`: number of examples to query, B.
- `is_trained`: whether the model has been trained on labels before any pool example is
  labeled.
- `num_passes`: number of passes, T (only with MC-dropout).
- `passes_at_once`: number of passes computed at a time (only with MC-dropout). It
  affects the speed, not the result.
- `batch_size`: number of examples computed at a time (only without dropout). It affects
  the speed, not the result.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fkjax.acquisition.ranking import highest
from fkjax.base import (
    Model,
    Query,
    Strategy,
    UserError,
    Variables,
    View,
    key_for,
    log_probs,
)
from fkjax.label_shift.correction import corrected
from fkjax.models.dropout import dropout
from fkjax.models.ensemble import each_member
from fkjax.parallel.mapping import map_examples

Uncertainty = Callable[[jax.Array], jax.Array]
"""`score(log_probs)`: computes the score from log p_t(y | x). Shapes [T, C] and []."""


def variation_ratio_score(log_probs: jax.Array) -> jax.Array:
    """Returns 1 - the share of passes that predict the most frequent class.

    The score is NaN if any probability is NaN.

    >>> float(variation_ratio_score(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))))
    0.5
    """
    num_passes, num_classes = log_probs.shape
    votes = jax.nn.one_hot(log_probs.argmax(axis=1), num_classes).sum(axis=0)
    ratio = 1 - votes.max() / num_passes
    return jnp.where(jnp.isnan(log_probs).any(), jnp.nan, ratio)


def entropy_score(log_probs: jax.Array) -> jax.Array:
    """Returns H[mean_t p_t], the entropy of the mean, in nats."""
    return _entropy(_mean(log_probs))


def bald_score(log_probs: jax.Array) -> jax.Array:
    """Returns H[mean_t p_t] - mean_t H[p_t], the mutual information, in nats."""
    return _entropy(_mean(log_probs)) - jax.vmap(_entropy)(log_probs).mean()


def mean_std_score(log_probs: jax.Array) -> jax.Array:
    """Returns the mean over classes of the standard deviation of p_t over passes."""
    return jnp.exp(log_probs).std(axis=0).mean()


def margin_score(log_probs: jax.Array) -> jax.Array:
    """Returns the second highest of mean_t p_t minus the highest, at most 0."""
    first, second = jax.lax.top_k(jnp.exp(_mean(log_probs)), 2)[0]
    return second - first


def least_confidence_score(log_probs: jax.Array) -> jax.Array:
    """Returns 1 - the highest of mean_t p_t."""
    return 1 - jnp.exp(_mean(log_probs)).max()


def _mean(log_probs: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))


def _entropy(log_probs: jax.Array) -> jax.Array:
    return jax.scipy.special.entr(jnp.exp(log_probs)).sum()


def stochastic_log_probs(
    key: jax.Array,
    model: Model,
    variables: Variables,
    image: jax.Array,
    *,
    num_passes: int,
) -> jax.Array:
    """Computes log p_t(y | x) of one example in T passes, with the dropout of training.

    The layers before the first dropout do not depend on the pass: `vmap` does not batch
    them, and they are computed once.

    Args:
        key: random key of the dropout masks.
        model: the classifier.
        variables: the variables of the model.
        image: the example. Shape [H, W, channels].
        num_passes: number of passes, T; for an ensemble, of each member.

    Returns:
        The log-probabilities. Shape [T, C], or [E T, C] for an ensemble of E members.
    """
    if model.member is not None:
        member = model.member
        passes = each_member(
            lambda key, variables: stochastic_log_probs(
                key, member, variables, image, num_passes=num_passes
            ),
            key,
            variables,
        )
        return passes.reshape(-1, model.num_classes)
    rates = dict(model.dropout)

    def one(t: jax.Array) -> jax.Array:
        return log_probs(
            model, variables, image, dropout(key_for(key, "pass", t), rates)
        )

    return jax.vmap(one)(jnp.arange(num_passes))


def mc_dropout(score: Uncertainty) -> Callable[..., Strategy]:
    """Returns the factory of strategies that query the highest MC-dropout scores."""

    def factory(
        model: Model,
        *,
        budget: int,
        num_passes: int = 128,
        passes_at_once: int | None = None,
        is_trained: bool = False,
    ) -> Strategy:
        if not any(rate > 0 for _, rate in model.dropout):
            raise UserError(
                "strategies with MC-dropout need a model with dropout, without which "
                "all passes are equal: raise --conv-dropout or --dense-dropout"
            )

        def one(key: jax.Array, variables: Variables, image: jax.Array) -> jax.Array:
            return stochastic_log_probs(
                key, model, variables, image, num_passes=num_passes
            )

        # On CPU, a batch should fit into the cache; other devices need large batches.
        at_once = passes_at_once or (128 if jax.default_backend() == "cpu" else 4096)
        batch_size = max(1, at_once // num_passes)
        return _most_uncertain(one, score, budget, batch_size, is_trained)

    return factory


def one_pass(score: Uncertainty) -> Callable[..., Strategy]:
    """Returns the factory of strategies that query the highest scores of one pass."""

    def factory(
        model: Model, *, budget: int, batch_size: int = 100, is_trained: bool = False
    ) -> Strategy:

        def one(key: jax.Array, variables: Variables, image: jax.Array) -> jax.Array:
            del key
            return log_probs(model, variables, image)[None]

        return _most_uncertain(one, score, budget, batch_size, is_trained)

    return factory


variation_ratio = mc_dropout(variation_ratio_score)
"""Queries by `variation_ratio_score`. Source: Freeman 1965; Gal et al. 2017."""

entropy = mc_dropout(entropy_score)
"""Queries by `entropy_score`. Source: Shannon 1948; Gal et al. 2017."""

bald = mc_dropout(bald_score)
"""Queries by `bald_score`. Source: Houlsby et al. 2011; Gal et al. 2017."""

mean_std = mc_dropout(mean_std_score)
"""Queries by `mean_std_score`. Source: Kampffmeyer et al. 2016; Gal et al. 2017."""

margin = one_pass(margin_score)
"""Queries by `margin_score`. Source: Scheffer et al. 2001."""

least_confidence = one_pass(least_confidence_score)
"""Queries by `least_confidence_score`. Source: Lewis & Gale 1994."""


def _most_uncertain(
    log_probs_of: Callable[[jax.Array, Variables, jax.Array], jax.Array],
    score: Uncertainty,
    budget: int,
    batch_size: int,
    is_trained: bool,
) -> Strategy:
    """Returns the strategy that queries the highest scores; ties are broken at random.

    If no pool example is labeled and the model is not trained, the query is drawn at
    random, as in Gudovskiy et al. 2020, Sec. 5. The dropout masks of an example depend
    only on its position.
    """

    def query(key: jax.Array, view: View) -> Query:
        positions = jnp.arange(len(view.pool))

        def one(image: jax.Array, position: jax.Array) -> jax.Array:
            found = log_probs_of(key_for(key, "masks", position), view.variables, image)
            if view.correction is not None:
                found = corrected(view.correction, found)
            return score(found)

        def computed() -> jax.Array:
            return map_examples(one, view.pool, positions, batch_size=batch_size)

        scores = jax.lax.cond(
            view.is_unlabeled.all() & (not is_trained),
            lambda: jnp.full_like(jax.eval_shape(computed), jnp.nan),
            computed,
        )
        return highest(
            key, scores, view.is_unlabeled, budget=budget, is_trained=is_trained
        )

    return Strategy(frozenset({"correction"}), query)
