"""What a strategy may see of the validation set and of the pool's labels."""

from collections.abc import Callable
from typing import Any, NoReturn, cast

import jax

from fkjax.base import Strategy, View


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


_DECLARABLE = ("validation", "validation_labels", "validation_mistakes")


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
