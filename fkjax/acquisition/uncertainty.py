"""Query what the model is least sure of: the baselines that look at the pool alone.

An example is scored by its class probabilities p_1 .. p_T in T passes, stochastic by
dropout (Gal & Ghahramani 2016), or in one pass without. Each strategy's factory takes
the model, the budget B, how many passes are made at a time, and whether the model has
learned from labels before any of the pool has one; those under MC-dropout also T, and
raise UserError for a model without dropout.
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
from fkjax.models.dropout import dropout
from fkjax.models.ensemble import each_member
from fkjax.parallel.mapping import map_examples

Score = Callable[[jax.Array], jax.Array]
"""`score(log_probs)`: a number from log p_t(y | x). Shapes [T, C] and []."""


def variation_ratio_score(log_probs: jax.Array) -> jax.Array:
    """1 - the share of passes that vote for the most voted class; NaN if one is NaN.

    >>> float(variation_ratio_score(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]]))))
    0.5
    """
    num_passes, num_classes = log_probs.shape
    votes = jax.nn.one_hot(log_probs.argmax(axis=1), num_classes).sum(axis=0)
    ratio = 1 - votes.max() / num_passes
    return jnp.where(jnp.isnan(log_probs).any(), jnp.nan, ratio)


def entropy_score(log_probs: jax.Array) -> jax.Array:
    """H[mean_t p_t], in nats."""
    return _entropy(_mean(log_probs))


def bald_score(log_probs: jax.Array) -> jax.Array:
    """H[mean_t p_t] - mean_t H[p_t], in nats: what the passes disagree on."""
    return _entropy(_mean(log_probs)) - jax.vmap(_entropy)(log_probs).mean()


def mean_std_score(log_probs: jax.Array) -> jax.Array:
    """Mean over classes of the standard deviation over passes of p_t."""
    return jnp.exp(log_probs).std(axis=0).mean()


def margin_score(log_probs: jax.Array) -> jax.Array:
    """The second highest of mean_t p_t less the highest: 0 where they are equal."""
    first, second = jax.lax.top_k(jnp.exp(_mean(log_probs)), 2)[0]
    return second - first


def least_confidence_score(log_probs: jax.Array) -> jax.Array:
    """1 - the highest of mean_t p_t."""
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
    """Log p_t(y | x) of one example in T passes, with the dropout of training.

    What comes before the first dropout does not depend on the pass: `vmap` leaves it
    out of its batch, and it is computed once.

    Args:
        key: gives each pass its masks.
        model: the classifier.
        variables: its variables.
        image: Shape [H, W, channels].
        num_passes: T, of each member of an ensemble.

    Returns:
        Shape [T, C]; [E T, C] for an ensemble.
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


def mc_dropout(score: Score) -> Callable[..., Strategy]:
    """The factory of strategies that query the highest scores under MC-dropout."""

    def factory(
        model: Model,
        *,
        budget: int,
        num_passes: int = 128,
        batch_size: int | None = None,
        is_trained: bool = False,
    ) -> Strategy:
        if not any(rate > 0 for _, rate in model.dropout):
            raise UserError(
                "MC-dropout needs a model with dropout, without which all its passes "
                "are equal: raise --conv-dropout or --dense-dropout."
            )

        def one(key: jax.Array, variables: Variables, image: jax.Array) -> jax.Array:
            return score(
                stochastic_log_probs(
                    key, model, variables, image, num_passes=num_passes
                )
            )

        # On CPU what a batch needs has to stay in cache; other devices want it large.
        at_once = batch_size or (128 if jax.default_backend() == "cpu" else 4096)
        return _most_uncertain(one, budget, max(1, at_once // num_passes), is_trained)

    return factory


def one_pass(score: Score) -> Callable[..., Strategy]:
    """The factory of strategies that query the highest scores of one plain pass."""

    def factory(
        model: Model, *, budget: int, batch_size: int = 100, is_trained: bool = False
    ) -> Strategy:

        def one(key: jax.Array, variables: Variables, image: jax.Array) -> jax.Array:
            del key
            return score(log_probs(model, variables, image)[None])

        return _most_uncertain(one, budget, batch_size, is_trained)

    return factory


variation_ratio = mc_dropout(variation_ratio_score)
"""Source: Freeman 1965; Gal et al. 2017."""

entropy = mc_dropout(entropy_score)
"""Source: Shannon 1948; Gal et al. 2017."""

bald = mc_dropout(bald_score)
"""Source: Houlsby et al. 2011; Gal et al. 2017."""

mean_std = mc_dropout(mean_std_score)
"""Source: Kampffmeyer et al. 2016; Gal et al. 2017."""

margin = one_pass(margin_score)
"""Source: Scheffer et al. 2001."""

least_confidence = one_pass(least_confidence_score)
"""Source: Lewis & Gale 1994."""


def _most_uncertain(
    score_one: Callable[[jax.Array, Variables, jax.Array], jax.Array],
    budget: int,
    batch_size: int,
    is_trained: bool,
) -> Strategy:
    """Queries the highest scores, among equal ones by lot.

    While nothing is labelled the model has learned nothing, unless it came trained:
    then by lot alone, as in Gudovskiy et al. 2020, Sec. 5. An example's masks depend on
    its position alone.
    """

    def query(key: jax.Array, view: View) -> Query:
        positions = jnp.arange(len(view.pool))

        def one(image: jax.Array, position: jax.Array) -> jax.Array:
            return score_one(key_for(key, "masks", position), view.variables, image)

        scores = jax.lax.cond(
            view.is_unlabeled.all() & (not is_trained),
            lambda: jnp.full(len(positions), jnp.nan),
            lambda: map_examples(one, view.pool, positions, batch_size=batch_size),
        )
        return highest(
            key, scores, view.is_unlabeled, budget=budget, is_trained=is_trained
        )

    return Strategy(frozenset(), query)
