"""Who answers what a label is, and what a strategy is allowed to see."""

from collections.abc import Callable
from typing import Any, NoReturn, cast

import jax
import numpy as np

from fkjax.base import Strategy, View, key_for


class LabelAccessError(RuntimeError):
    """A strategy read something that it had not declared."""


class Withheld:
    """Stands where a strategy declared no need to look; any use of it fails."""

    def __init__(self, what: str):
        """Stands in for the field called `what`."""
        self._what = what

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise LabelAccessError(
            f"this strategy read {self._what!r} without declaring it in `sees`"
        )

    __array__ = __jax_array__ = __getitem__ = __iter__ = __len__ = _refuse
    __add__ = __radd__ = __eq__ = __ne__ = __lt__ = __bool__ = _refuse
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        """Refuses as well, but for Python's own look-ups."""
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()


jax.tree_util.register_pytree_node(
    Withheld, lambda w: ((), w._what), lambda what, _: Withheld(what)
)

Oracle = Callable[[np.ndarray], np.ndarray]
"""`oracle(indices [B]) -> labels [B]`: an array here, a person elsewhere."""


def array_oracle(labels: np.ndarray) -> Oracle:
    """An oracle that reads the answers off an array. Shape [N]."""
    answers = np.asarray(labels)
    return lambda indices: answers[indices]


def noisy_labels(
    key: jax.Array, labels: np.ndarray, *, num_classes: int, rate: float
) -> np.ndarray:
    """Answers of which a share is wrong, uniformly among the other classes.

    One draw for the whole pool: an example gets the same answer whenever, and by
    whichever strategy, it is asked for.

    Args:
        key: drawn from by purpose.
        labels: the true ones. Shape [N].
        num_classes: C.
        rate: the probability of a wrong answer, in 0..1.

    Returns:
        Shape [N] int32.
    """
    labels = np.asarray(labels)
    is_wrong = jax.random.bernoulli(
        key_for(key, "which labels are wrong"), np.float32(rate), labels.shape
    )
    shift = jax.random.randint(
        key_for(key, "wrong labels"), labels.shape, 1, num_classes, np.int32
    )
    return np.where(is_wrong, (labels + shift) % num_classes, labels).astype(np.int32)


_DECLARABLE = ("validation_images", "validation_labels", "validation_mistakes")


def restrict(
    view: View, strategy: Strategy, *, hidden_labels: Callable[[], jax.Array]
) -> View:
    """The part of `view` that a strategy declared; using any other field fails.

    Args:
        view: all of it but the hidden labels.
        strategy: names in `sees` what it reads.
        hidden_labels: called only for a strategy that declared `pool_labels`.

    Returns:
        The view with a `Withheld` in every undeclared field.

    Raises:
        ValueError: if the strategy declares a field that does not exist.
    """
    unknown = strategy.sees - {*_DECLARABLE, "pool_labels"}
    if unknown:
        raise ValueError(
            f"a strategy may declare {(*_DECLARABLE, 'pool_labels')}, "
            f"this one declares {sorted(unknown)}"
        )
    withheld = {
        name: Withheld(name) for name in _DECLARABLE if name not in strategy.sees
    }
    labels = (
        hidden_labels() if "pool_labels" in strategy.sees else Withheld("pool_labels")
    )
    return view._replace(**cast(Any, {**withheld, "pool_labels": labels}))
