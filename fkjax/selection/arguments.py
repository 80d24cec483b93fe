"""Values that users give in different types: plain Python values and whole numbers."""

import re
from typing import Any

import numpy as np

from fkjax.base import UserError

_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}(\.0*)?")


def plain(value: Any) -> Any:
    """Converts a value of NumPy's types, or UTF-8 bytes, to a Python value."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def is_missing(value: Any) -> bool:
    """Returns whether a value is None, NaN, NaT or the NA of pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64)) and bool(
        value != value
    )


def whole_or_none(value: Any) -> int | None:
    """Returns a number without a fraction as an int, also if it is text.

    >>> [whole_or_none(x) for x in (3, 3.0, "3", "3.0", 2.5, True, "x")]
    [3, 3, 3, 3, None, None, None]
    """
    value = plain(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def whole(value: Any, what: str) -> int:
    """Returns a number without a fraction as an int.

    Args:
        value: integer of any type, or a float such as 3.0.
        what: name of the number in the message.

    Raises:
        UserError: if it has a fraction or is not a number.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # an array of NumPy or JAX with a single number
    found = None if isinstance(value, (str, bytes)) else whole_or_none(value)
    if found is None:
        raise UserError(f"the {what} must be an integer, got {value!r}")
    return found
