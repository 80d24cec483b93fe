"""Several models of one architecture, trained and asked as one.

The members start from different weights, see their examples in different orders and
under different dropout. The first member is the model that a run without an ensemble
trains, draw for draw.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fkjax.base import Model, Tap, Variables, key_for, no_tap


def ensemble(model: Model, num_members: int) -> Model:
    """An ensemble as a model, whose variables have a leading axis E on every leaf.

    Its p(y | x) is the mean of the members' (Lakshminarayanan et al. 2017). Training
    and MC-dropout go member by member, in one program (`each_member`). Its taps are the
    first member's: descriptors are of that member, under the ensemble's p.

    >>> from fkjax.models import lenet
    >>> four = ensemble(lenet((28, 28, 1), 10), 4)
    >>> jax.eval_shape(four.init, jax.random.key(0)).parameters["fc2"]["bias"].shape
    (4, 10)

    Args:
        model: of each member.
        num_members: E.

    Returns:
        The ensemble; its `member` is `model`.

    Raises:
        ValueError: if E is less than 1.
    """
    if num_members < 1:
        raise ValueError(f"an ensemble has 1 or more members, got {num_members}")

    def init(key: jax.Array) -> Variables:
        return jax.vmap(model.init)(_member_keys(key, num_members))

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        log_probs = [
            jax.nn.log_softmax(
                model.apply(_member(variables, i), images, no_tap if i else tap)
            )
            for i in range(num_members)
        ]
        return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - jnp.log(num_members)

    return model._replace(init=init, apply=apply, apply_training=None, member=model)


def each_member(
    fn: Callable[[jax.Array, Variables], Any], key: jax.Array, variables: Variables
) -> Any:
    """`fn(key, variables)` of every member, as one program.

    The members go side by side (`vmap`) where there is room for them, on GPU and TPU;
    on CPU, which one member fills, one after the other.

    Args:
        fn: of one member.
        key: gives each member its own; to the first, itself.
        variables: of an ensemble.

    Returns:
        What `fn` returns, with a leading axis E.
    """
    keys = _member_keys(key, len(jax.tree.leaves(variables)[0]))
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda member: fn(*member), (keys, variables))
    return jax.vmap(fn)(keys, variables)


def _member_keys(key: jax.Array, num_members: int) -> jax.Array:
    others = [key_for(key, "member", i) for i in range(1, num_members)]
    return jnp.stack([key, *others])


def _member(variables: Variables, i: int) -> Variables:
    return jax.tree.map(lambda leaf: leaf[i], variables)
