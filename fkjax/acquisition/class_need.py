"""Strategies that fill the need of classes, by the score of another strategy.

If n examples have been trained on, n_c of them of class c, and B are queried, the need
of a class is (n + B) pi_c - n_c, where pi_c is its share in the validation set. A query
lowers the needs by its class probabilities r_ic. A class that the pool does not have
keeps its need, and does not hold up the others.

Each factory takes the arguments of those in `fkjax.acquisition.complement`, and:

- `is_soft`: whether the score of an example is multiplied by the need that it fills,
  sum_c r_ic max(0, need_c). If not, the best example of the class of the largest need
  is queried, by the most probable classes; of all classes once no need is left.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition.complement import ratio_gain
from fkjax.acquisition.greedy import Gain, Picked
from fkjax.acquisition.scene import Scene, greedy_strategy
from fkjax.acquisition.uncertainty import margin_score
from fkjax.base import Model, Strategy
from fkjax.fisher.kernel import Kernel, multi_scale
from fkjax.parallel.rows import Rows

_SMALL = 1e-6  # in place of no need, so that the score decides among such examples


class _Needs(NamedTuple):
    inner: Any  # the shared state of the gain that is wrapped
    need: jax.Array  # of each class. Shape [C].
    num_open: jax.Array  # examples that can be queried, by their class. Shape [C].


class _InClass(NamedTuple):
    inner: Any  # the state of the row in the gain that is wrapped
    posterior: jax.Array  # class probabilities. Shape [C].


def needs(scene: Scene) -> jax.Array:
    """Returns the need of each class before the first pick. Shape [C]."""
    counts = jnp.where(scene.is_labeled[:, None], scene.posterior, 0).sum(axis=0)
    if scene.trains_on_validation:
        counts = counts.at[scene.validation_labels].add(1)
    return (counts.sum() + scene.budget) * scene.deployment - counts


def with_needs(scene: Scene, gain: Gain, *, is_soft: bool) -> Gain:
    """Returns a gain that fills the need of classes by another gain.

    Args:
        scene: the round.
        gain: gain by which the examples of a class are compared; 0 or more if
            `is_soft`.
        is_soft: see the documentation of the module.
    """
    of_classes = jnp.zeros(len(scene.deployment), jnp.int32)
    classes = scene.posterior.argmax(axis=1)
    shared = _Needs(
        gain.shared, needs(scene), of_classes.at[classes].add(scene.is_open)
    )
    own = scene.pool.start + jnp.arange(scene.pool.size)
    rows = _InClass(gain.rows, scene.posterior.at[own].get(mode="clip"))

    def value(shared: _Needs, row: _InClass) -> jax.Array:
        score = gain.value(shared.inner, row.inner)
        if is_soft:
            return score * (
                (row.posterior * jnp.maximum(shared.need, 0)).sum() + _SMALL
            )
        need = jnp.where(shared.num_open > 0, shared.need, -jnp.inf)
        is_wanted = (row.posterior.argmax() == need.argmax()) | (need.max() <= 0)
        return jnp.where(is_wanted, score, -jnp.inf)

    def inner(picked: Picked) -> Picked:
        return Picked(picked.row, picked.state.inner)

    def directions(shared: _Needs, picked: Picked) -> jax.Array:
        return gain.directions(shared.inner, inner(picked))

    def update(
        shared: _Needs, picked: Picked, row: _InClass, products: jax.Array
    ) -> _InClass:
        updated = gain.update(shared.inner, inner(picked), row.inner, products)
        return row._replace(inner=updated)

    def share(shared: _Needs, picked: Picked) -> _Needs:
        posterior = picked.state.posterior
        return _Needs(
            gain.share(shared.inner, inner(picked)),
            shared.need - posterior,
            shared.num_open.at[posterior.argmax()].add(-1),
        )

    return Gain(shared, rows, value, directions, update, share)


def fixed(pool: Rows, scores: jax.Array) -> Gain:
    """Returns the gain of scores that do not change with the picks.

    Args:
        pool: features of the pool.
        scores: scores of the pool examples. Shape [N].
    """
    own = pool.start + jnp.arange(pool.size)
    return Gain(
        (),
        scores.at[own].get(mode="clip"),
        value=lambda shared, row: row,
        directions=lambda shared, picked: jnp.zeros((len(picked.row), 0)),
        update=lambda shared, picked, row, products: row,
        share=lambda shared, picked: shared,
    )


def class_need(gain: Callable[[Scene, float], Gain]) -> Callable[..., Strategy]:
    """Returns the factory of strategies that fill the need of classes by a gain.

    Args:
        gain: function `gain(scene, noise)` that makes the gain of a round, such as
            `fkjax.acquisition.complement.ratio_gain`. Its gains are 0 or more.
    """

    def factory(
        model: Model,
        *,
        taps: Sequence[str],
        budget: int,
        batch_size: int = 100,
        kernel: Kernel = multi_scale,
        trains_on_validation: bool = False,
        noise: float = 0.1,
        is_soft: bool = False,
    ) -> Strategy:
        return greedy_strategy(
            model,
            lambda scene: with_needs(scene, gain(scene, noise), is_soft=is_soft),
            taps=taps,
            budget=budget,
            batch_size=batch_size,
            kernel=kernel,
            trains_on_validation=trains_on_validation,
        )

    return factory


def _margin(scene: Scene, noise: float) -> Gain:
    del noise
    scores = jax.vmap(lambda log_p: 1 + margin_score(log_p[None]))(scene.log_probs)
    return fixed(scene.pool, scores)


class_need_margin = class_need(_margin)
"""Fills the need of classes by the smallest margin of the corrected prediction."""

class_need_ratio = class_need(ratio_gain)
"""Fills the need of classes by the gain of `fisher_ratio`."""
