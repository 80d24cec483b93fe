"""Probabilities and log-probabilities in place of logits."""

from collections.abc import Callable, Sequence

import numpy as np

from fkjax.base import UserError
from fkjax.data.columns import Table
from fkjax.models.precomputed import LOGITS

OUTPUTS = (LOGITS, "log_probs", "probabilities")
"""The names of arrays of a network's outputs; the first of them that is there is used.

All determine the probabilities p: log p differs from the logits by a constant."""

_FIRST = 1000  # rows that are examined
_TOLERANCE = 1e-2  # of sums, for float16 and rounded decimals
_ENOUGH = 20  # numbers; fewer can be in a range by chance


def are_probabilities(rows: np.ndarray) -> bool:
    """Returns whether all rows are 0 or more and add up to 1; NaN rows are ignored."""
    rows = rows[np.isfinite(rows).all(axis=1)].astype(float)
    sums = rows.sum(axis=1)
    is_one = (rows >= 0).all(axis=1) & (np.abs(sums - 1) <= _TOLERANCE)
    return len(rows) > 0 and bool(is_one.all())


def are_within(rows: np.ndarray, low: float, high: float) -> bool:
    """Returns whether all of many numbers are from `low` to `high`.

    NaN is ignored. Equal numbers do not count: the last layer can start from zeros.
    """
    numbers = rows[np.isfinite(rows)].astype(float)
    if len(numbers) < _ENOUGH or np.ptp(numbers) == 0:
        return False
    return bool(((low <= numbers) & (numbers <= high)).all())


def contain_probabilities(
    parts: Sequence[tuple[Table, str]],
    names: Sequence[str],
    warn: Callable[[str], object],
) -> list[bool]:
    """Checks whether the outputs of the pool and the validation set are probabilities.

    Arrays are taken by their names, except logits that are 0 or more and add up to 1
    for every example, which logits never do. They are probabilities, whose softmax
    would be wrong. Logits that add up to 100, as percentages do, and those that are all
    from 0 to 1, as outputs of a sigmoid and most cosine similarities are, are refused.
    Logits from -1 to 1 can be cosine similarities, or those of a network that has
    learned little, and are taken with a warning.

    Args:
        parts: pool and validation set, with their names in messages.
        names: names of their outputs, in `OUTPUTS`.
        warn: function called with a message if logits are taken as probabilities, or
            can be cosine similarities.

    Returns:
        Whether the outputs of each part are probabilities.

    Raises:
        UserError: if outputs are not what their names say.
    """
    first = [
        np.asarray(part[name][:_FIRST])
        for (part, _), name in zip(parts, names, strict=True)
    ]
    look_so = [are_probabilities(rows) for rows in first]
    for (_, what), name, is_one in zip(parts, names, look_so, strict=True):
        if name == "probabilities" and not is_one:
            raise _not_probabilities(what)
        if name == "log_probs" and is_one:
            raise UserError(
                f"the log_probs of the {what} are 0 or more and add up to 1, as "
                "probabilities do: name the array probabilities"
            )
    at = [i for i, name in enumerate(names) if name == LOGITS]
    doubtful = [i for i in at if look_so[i]]
    if doubtful:
        which = " and the ".join(parts[i][1] for i in doubtful)
        remedy = "give the outputs before the softmax"
        if len(doubtful) < len(at):
            raise UserError(
                f"the logits of the {which} are 0 or more and add up to 1, as "
                f"probabilities do, but the others do not: {remedy} for both"
            )
        if all((first[i].max(axis=1) == 1).all() for i in doubtful):
            raise UserError(
                f"the logits of the {which} are only 0 and 1, as labels are: {remedy}"
            )
        warn(
            f"the logits of the {which} are 0 or more and add up to 1, so they are "
            f"taken as probabilities: name the array probabilities, or {remedy}"
        )
    _check_range([(first[i], parts[i][1]) for i in at if not look_so[i]], warn)
    return [
        is_one and name != "log_probs"
        for name, is_one in zip(names, look_so, strict=True)
    ]


def _check_range(
    logits: Sequence[tuple[np.ndarray, str]], warn: Callable[[str], object]
) -> None:
    for rows, what in logits:
        if are_probabilities(rows / 100):
            raise UserError(
                f"the logits of the {what} are 0 or more and add up to 100, as "
                "percentages do: divide them by 100 and name the array probabilities"
            )
    which = " and the ".join(what for _, what in logits)
    if logits and all(are_within(rows, 0, 1) for rows, _ in logits):
        raise UserError(
            f"the logits of the {which} are all from 0 to 1, as the outputs of a "
            "sigmoid or cosine similarities are: give the outputs before the sigmoid, "
            "np.log(p / (1 - p)), or the similarities times the scale of the network, "
            "100 for CLIP; if they are logits, subtract 1, which changes no probability"
        )
    if logits and all(are_within(rows, -1, 1) for rows, _ in logits):
        warn(
            f"the logits of the {which} are all from -1 to 1, so that no class is much "
            "more probable than another: if they are cosine similarities, multiply "
            "them by the scale of the network, 100 for CLIP"
        )


def logs(rows: np.ndarray, what: str) -> np.ndarray:
    """Returns the logarithms of probabilities. Shape [B, C] float32.

    Zeros, to which small probabilities are rounded, become the smallest float32.

    Args:
        rows: probabilities. Shape [B, C].
        what: name of the set in messages, such as "pool".

    Raises:
        UserError: if they are not probabilities.
    """
    is_finite = np.isfinite(rows).all(axis=1)
    if is_finite.any() and not are_probabilities(rows[is_finite]):
        raise _not_probabilities(what)
    tiny = np.finfo(np.float32).tiny
    return np.log(np.maximum(rows.astype(float), tiny)).astype(np.float32)


def with_finite_zeros(rows: np.ndarray) -> np.ndarray:
    """Replaces logits or log-probabilities of -inf, as of probabilities of 0.

    Like the zeros of `logs`, they become those of the smallest float32. Rows without a
    finite maximum, which have no probabilities, do not change.

    >>> print(with_finite_zeros(np.array([[0.0, -np.inf]])).round(1))
    [[  0.  -87.3]]

    Args:
        rows: logits or log-probabilities. Shape [B, C].
    """
    is_zero = np.isneginf(rows) & np.isfinite(rows.max(axis=1, keepdims=True))
    if not is_zero.any():
        return rows
    total = np.logaddexp.reduce(rows.astype(float), axis=1, keepdims=True)
    below = np.maximum(-np.log(np.finfo(np.float32).tiny), 1e-6 * abs(total))
    return np.where(is_zero, total - below, rows).astype(np.float32)


def _not_probabilities(what: str) -> UserError:
    return UserError(
        f"the probabilities of the {what} must be 0 or more and add up to 1 for each "
        "example: divide percentages by 100 and the outputs of a sigmoid by their sum, "
        "or name the array logits"
    )
