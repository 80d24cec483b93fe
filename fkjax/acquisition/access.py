"""Access of strategies to the validation set and to the labels of the pool."""

from collections.abc import Callable
from typing import Any, NoReturn, cast

import jax
import jax.numpy as jnp

from fkjax.base import (
    Examples,
    PriorCorrection,
    Strategy,
    UserError,
    Variables,
    View,
)


class LabelAccessError(RuntimeError):
    """Raised if a strategy reads a field that it has not declared."""


class Withheld:
    """A placeholder for a field that a strategy has not declared; any use of it fails.

    Attribute access, indexing, arithmetic and conversion to an array all raise
    `LabelAccessError`.
    """

    def __init__(self, what: str):
        """Creates the placeholder of the field named `what`."""
        self._what = what

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise LabelAccessError(
            f"the strategy read {self._what!r} without declaring it in `sees`"
        )

    __array__ = __jax_array__ = __getitem__ = __iter__ = __len__ = _refuse
    __add__ = __radd__ = __eq__ = __ne__ = __lt__ = __bool__ = _refuse
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        """Raises `LabelAccessError`, or AttributeError for special names of Python."""
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()


jax.tree_util.register_pytree_node(
    Withheld, lambda w: ((), w._what), lambda what, _: Withheld(what)
)


_DECLARABLE = (
    *("validation", "validation_labels", "validation_mistakes"),
    *("labels", "correction"),
)


def restrict(
    view: View, strategy: Strategy, *, hidden_labels: Callable[[], jax.Array]
) -> View:
    """Replaces the fields of a view that a strategy has not declared.

    Args:
        view: the complete view, except for the hidden labels.
        strategy: the strategy, which declares the fields that it reads in `sees`.
        hidden_labels: function that returns the labels of the pool. It is called only
            if the strategy declares `pool_labels`.

    Returns:
        The view with a `Withheld` in every undeclared field.

    Raises:
        ValueError: if the strategy declares a field that does not exist.
    """
    unknown = strategy.sees - {*_DECLARABLE, "pool_labels"}
    if unknown:
        raise ValueError(
            f"a strategy can declare {(*_DECLARABLE, 'pool_labels')}, "
            f"got {sorted(unknown)}"
        )
    withheld = {
        name: Withheld(name) for name in _DECLARABLE if name not in strategy.sees
    }
    labels = (
        hidden_labels() if "pool_labels" in strategy.sees else Withheld("pool_labels")
    )
    return view._replace(**cast(Any, {**withheld, "pool_labels": labels}))


def view_for(
    strategy: Strategy,
    *,
    variables: Variables,
    pool: Examples,
    is_unlabeled: jax.Array,
    validation: Examples,
    validation_labels: jax.Array,
    validation_mistakes: jax.Array,
    labels: jax.Array | None = None,
    correction: PriorCorrection | None = None,
    hidden_labels: Callable[[], jax.Array],
) -> View:
    """Returns the view of a strategy, with a `Withheld` in every undeclared field.

    Args:
        strategy: the strategy.
        variables: see `fkjax.base.View`.
        pool: see `fkjax.base.View`.
        is_unlabeled: see `fkjax.base.View`.
        validation: see `fkjax.base.View`.
        validation_labels: see `fkjax.base.View`.
        validation_mistakes: see `fkjax.base.View`.
        labels: see `fkjax.base.View`.
        correction: see `fkjax.base.View`.
        hidden_labels: see `restrict`.

    Raises:
        ValueError: if the strategy declares a field that does not exist.
    """
    view = View(
        variables=variables,
        pool=pool,
        is_unlabeled=is_unlabeled,
        validation=validation,
        validation_labels=validation_labels,
        validation_mistakes=validation_mistakes,
        pool_labels=jnp.zeros(0, jnp.int32),
        labels=labels,
        correction=correction,
    )
    return restrict(view, strategy, hidden_labels=hidden_labels)


def require_pixels(examples: jax.Array, what: str) -> None:
    """Checks that examples are numbers that can be changed a little, as pixels can.

    Args:
        examples: examples of any shape.
        what: name of what needs them, for the message.

    Raises:
        UserError: if they are integers other than uint8, such as tokens.
    """
    is_float = jnp.issubdtype(examples.dtype, jnp.floating)
    if not is_float and examples.dtype != jnp.uint8:
        raise UserError(
            f"{what} cannot use examples of {examples.dtype}, such as tokens or "
            "several arrays, only floats or uint8: choose another strategy"
        )
