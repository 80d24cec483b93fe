"""Balance of the classes by their hidden labels: a reference, for experiments."""

import jax
import jax.numpy as jnp

from fkjax.base import Model, Query, Strategy, View, key_for


def balance_oracle(model: Model, *, budget: int) -> Strategy:
    """Returns the strategy that balances the classes of the labeled pool examples.

    It draws at random from the class of which the fewest examples are labeled or in the
    batch, and has unlabeled ones. It reads the hidden labels: it shows what a balanced
    training set is worth, and cannot be used on a pool of your own.

    Args:
        model: the classifier, for its number of classes.
        budget: number of examples to query, B.
    """

    def query(key: jax.Array, view: View) -> Query:
        labels, is_open = jnp.asarray(view.pool_labels), view.is_unlabeled
        nothing = jnp.zeros(model.num_classes, jnp.int32)
        num_labeled = nothing.at[labels].add(~is_open)
        num_open = nothing.at[labels].add(is_open)
        draw = jax.random.uniform(key_for(key, "draw"), labels.shape, jnp.float32)
        order = jnp.lexsort((draw, labels, ~is_open))  # open first, class by class
        first = jnp.cumsum(num_open) - num_open
        of_order = labels[order]
        # Number of examples of its class that come before it.
        before = num_labeled[of_order] + jnp.arange(len(order)) - first[of_order]
        before = jnp.where(is_open[order], before, jnp.iinfo(jnp.int32).max)
        turn = jax.random.uniform(key_for(key, "turn"), labels.shape, jnp.float32)
        indices = order[jnp.lexsort((turn, before))[:budget]]
        none = jnp.full(budget, -1, jnp.int32)
        return Query(indices, labels[indices], none, jnp.full(budget, jnp.nan))

    return Strategy(frozenset({"pool_labels"}), query)
