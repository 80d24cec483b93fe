"""The vocabulary that the other modules share: shapes, types, keys, errors.

Shape letters, used in every docstring:

    N  examples in the pool             M  examples in the validation set
    B  queries in one round (budget)    C  classes
    D  length of a Fisher vector        K  rank of a projection
    L  length of a pooled descriptor    T  stochastic passes
    R  rounds                           H, W  height and width of an image
"""

import zlib
from typing import Any, NamedTuple

import jax

Variables = Any
"""A pytree of arrays: everything that a model needs besides its input."""


class UserError(ValueError):
    """Something that the user can mend; its message is one sentence saying how."""


class Query(NamedTuple):
    """What an acquisition function asks the oracle to label in one round.

    Attributes:
        indices: positions in the pool, distinct and unlabelled. Shape [B].
        pseudo_labels: the label assumed for each, or -1. Shape [B].
        targets: position in the validation set of the mistake that each answers,
            or -1 if it answers none. Shape [B].
        scores: how strongly each was wanted; NaN where drawn at random. Shape [B].
    """

    indices: jax.Array
    pseudo_labels: jax.Array
    targets: jax.Array
    scores: jax.Array


def key_for(key: jax.Array, purpose: str, *numbers: int | jax.Array) -> jax.Array:
    """Derives the key of one named purpose from the key of a run.

    The purpose is hashed by CRC-32, so a new purpose never moves an old one's draws.

    >>> run = jax.random.key(0)
    >>> bool((key_for(run, "split") == key_for(run, "split")).all())
    True

    Args:
        key: the parent key.
        purpose: what the randomness is for, such as "split" or "training".
        *numbers: further coordinates, such as the round.

    Returns:
        A key that depends on nothing else.
    """
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
