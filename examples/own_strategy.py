"""Adds a strategy of your own, checks it, and chooses with it.

The strategy, `rare_by_model`, queries the examples that probably are of a class that
the model finds rarely in the pool. It needs the pool and the model alone: it declares
no other field in `sees`, so it can read no other.

    python examples/own_strategy.py
"""

import jax
import jax.numpy as jnp
import numpy as np

import fkjax
from fkjax.acquisition import (
    STRATEGIES,
    Model,
    Query,
    Strategy,
    View,
    highest,
    log_probs,
    map_examples,
)
from fkjax.testing import check_strategy


def rare_by_model(model: Model, *, budget: int, batch_size: int = 100) -> Strategy:
    """Returns the strategy: score(x) = sum_c p(c | x) / mean_pool p(c)."""

    def query(key: jax.Array, view: View) -> Query:
        def probabilities(example: jax.Array) -> jax.Array:
            return jnp.exp(log_probs(model, view.variables, example))

        p = map_examples(probabilities, view.pool, batch_size=batch_size)
        scores = (p / p.mean(axis=0)).sum(axis=1)
        return highest(key, scores, view.is_unlabeled, budget=budget)

    return Strategy(frozenset(), query)


def made_up(rng: np.random.Generator, counts: list[int]) -> dict[str, np.ndarray]:
    """Draws features around the center of each class, and logits that fit them."""
    labels = np.repeat(np.arange(len(counts)), counts)
    centers = 3 * np.eye(len(counts), dtype=np.float32)
    features = centers[labels] + rng.normal(0, 1, (len(labels), len(counts)))
    features = features.astype(np.float32)
    return {"features": features, "logits": 2 * features, "labels": labels}


def main() -> None:
    """Checks the strategy, and compares its query with a random one."""
    for left_out in check_strategy(rare_by_model):
        print("does not apply:", left_out)
    print("rare_by_model keeps the contract of a strategy")

    # This makes it a name for `--strategies`, in commands that this program runs.
    STRATEGIES["rare_by_model"] = rare_by_model

    rng = np.random.default_rng(0)
    pool = made_up(rng, [300, 300, 15])
    hidden = pool.pop("labels")
    validation = made_up(rng, [20, 20, 20])
    for name, strategy in (("random", "random"), ("rare_by_model", rare_by_model)):
        selection = fkjax.select(pool, validation, budget=10, strategy=strategy)
        num_rare = sum(hidden[pick.id] == 2 for pick in selection.picks)
        print(f"{name}: {num_rare} of 10 picks are of the rare class")


if __name__ == "__main__":
    main()
