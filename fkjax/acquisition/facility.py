"""Strategies of facility location: each target has a similar labeled example.

The similarity of two examples is the inner product of their unit-norm Fisher features
phi (`fkjax.acquisition.scene`), or 0 if it is negative. The similarities of the pool to
all targets are in memory, N numbers for each target.

The factories take the arguments of those in `fkjax.acquisition.complement`, except
`noise`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fkjax.acquisition.greedy import Gain, Picked, of_chunks, rows_at
from fkjax.acquisition.scene import Scene, greedy_strategy
from fkjax.base import Model, Strategy, key_for
from fkjax.fisher.kernel import Kernel, multi_scale, similarity

_MOST_TARGETS = 1024  # of `max_herding`


def _by(gain: Callable[[Scene], Gain]) -> Callable[..., Strategy]:
    """Returns the factory of strategies that pick by `gain(scene)`."""

    def factory(
        model: Model,
        *,
        taps: Sequence[str],
        budget: int,
        batch_size: int = 100,
        kernel: Kernel = multi_scale,
        trains_on_validation: bool = False,
    ) -> Strategy:
        return greedy_strategy(
            model,
            gain,
            taps=taps,
            budget=budget,
            batch_size=batch_size,
            kernel=kernel,
            trains_on_validation=trains_on_validation,
        )

    return factory


def facility_location(
    scene: Scene, targets: jax.Array, covered: jax.Array, *, eta: float
) -> Gain:
    """Returns the gain of sum_q max_(a in A) S_aq + eta sum_(a in A) max_q S_aq.

    A are the labeled pool examples and the picks.

    Args:
        scene: the round.
        targets: features of the targets q. Shape [Q, K].
        covered: similarity of each target to the most similar of other examples that
            are taken as labeled; 0 if there are none. Shape [Q].
        eta: weight of the second sum.
    """
    pool = scene.pool
    similarities = of_chunks(
        pool, lambda phi: jnp.maximum(similarity(phi, targets), 0)
    )  # [share of N, Q]
    own = pool.start + jnp.arange(pool.size)
    is_labeled = scene.is_labeled.at[own].get(mode="fill", fill_value=False)
    of_labeled = jnp.where(is_labeled[:, None], similarities, 0).max(axis=0)
    if pool.axis is not None:
        of_labeled = jax.lax.pmax(of_labeled, pool.axis)

    def value(covered: jax.Array, row: jax.Array) -> jax.Array:
        return jnp.maximum(row - covered, 0).sum() + eta * row.max()

    return Gain(
        jnp.maximum(covered, of_labeled),
        similarities,
        value,
        directions=lambda covered, picked: jnp.zeros((len(picked.row), 0)),
        update=lambda covered, picked, row, products: row,
        share=_covered,
    )


def _covered(covered: jax.Array, picked: Picked) -> jax.Array:
    return jnp.maximum(covered, picked.state)


def _flqmi(scene: Scene) -> Gain:
    nothing = jnp.zeros(len(scene.validation), scene.validation.dtype)
    return facility_location(scene, scene.validation, nothing, eta=1.0)


def _max_herding(scene: Scene) -> Gain:
    num = scene.pool.num
    positions = jnp.arange(num)
    if num > _MOST_TARGETS:
        draw = jax.random.uniform(key_for(scene.key, "targets"), (num,), jnp.float32)
        positions = jax.lax.top_k(draw, _MOST_TARGETS)[1]
    targets = rows_at(scene.pool, positions)
    covered = jnp.zeros(len(targets), targets.dtype)
    if scene.trains_on_validation:
        known = similarity(targets, scene.validation).max(axis=1)
        covered = jnp.maximum(covered, known)
    return facility_location(scene, targets, covered, eta=0.0)


flqmi = _by(_flqmi)
"""Raises the facility location mutual information with the validation set.

Its gain is that of sum_q max_a S_aq + sum_a max_q S_aq over the validation examples q
and the labeled pool examples a. Source: Kothawade et al. 2021 (SIMILAR).
"""

max_herding = _by(_max_herding)
"""Raises the mean similarity of pool examples to the most similar labeled one.

In a pool of more than 1,024 examples, the mean is over 1,024 of them that are drawn at
random. Source: Bae et al. 2024 (MaxHerding), with the Fisher kernel.
"""
