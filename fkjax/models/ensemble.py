"""Ensembles: several models of one architecture that are used as one model.

The members have different initial weights, orders of the examples and dropout masks.
The first member is identical to the model that is trained without an ensemble.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fkjax.base import Model, Tap, Variables, key_for, no_tap, widened


def ensemble(model: Model, num_members: int) -> Model:
    """Returns an ensemble as a model, whose variables have a leading axis E.

    Its p(y | x) is the mean over the members (Lakshminarayanan et al. 2017). Training
    and MC-dropout run for each member, in one program (`each_member`). The taps are
    those of the first member: descriptors are computed from the activations of that
    member and the probabilities of the ensemble.

    >>> from fkjax.models import lenet
    >>> four = ensemble(lenet((28, 28, 1), 10), 4)
    >>> jax.eval_shape(four.init, jax.random.key(0)).parameters["fc2"]["bias"].shape
    (4, 10)

    Args:
        model: the model of each member.
        num_members: number of members, E.

    Returns:
        The ensemble, whose `member` is `model`.

    Raises:
        ValueError: if E is less than 1.
    """
    if num_members < 1:
        raise ValueError(f"an ensemble must have 1 or more members, got {num_members}")

    def init(key: jax.Array) -> Variables:
        return jax.vmap(model.init)(_member_keys(key, num_members))

    def apply(variables: Variables, images: jax.Array, tap: Tap = no_tap) -> jax.Array:
        log_probs = [
            jax.nn.log_softmax(
                widened(
                    model.apply(_member(variables, i), images, no_tap if i else tap)
                )
            )
            for i in range(num_members)
        ]
        return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - jnp.log(num_members)

    return model._replace(init=init, apply=apply, apply_training=None, member=model)


def each_member(
    fn: Callable[[jax.Array, Variables], Any], key: jax.Array, variables: Variables
) -> Any:
    """Calls `fn(key, variables)` for every member, in one program.

    The members run in parallel (`vmap`) on GPU and TPU, and one after the other on CPU,
    where one member uses all cores.

    Args:
        fn: function of the key and the variables of one member.
        key: random key, which the first member gets; the others derive theirs from it.
        variables: variables of the ensemble.

    Returns:
        The results of `fn`, with a leading axis E.
    """
    keys = _member_keys(key, len(jax.tree.leaves(variables)[0]))
    return each_model(fn, keys, variables)


def each_model(fn: Callable[..., Any], *args: Any) -> Any:
    """Maps `fn(*args)` over the leading axis of its arguments, as `each_member` does.

    Args:
        fn: function that trains or applies one model.
        args: pytrees of arrays with the same leading axis, one entry for each model.

    Returns:
        The results of `fn`, with the same leading axis.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda each: fn(*each), args)
    return jax.vmap(fn)(*args)


def _member_keys(key: jax.Array, num_members: int) -> jax.Array:
    others = [key_for(key, "member", i) for i in range(1, num_members)]
    return jnp.stack([key, *others])


def _member(variables: Variables, i: int) -> Variables:
    return jax.tree.map(lambda leaf: leaf[i], variables)
