"""Active learning for biased pools, by matching Fisher-kernel features."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkjax.selection.select import select as select

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`fkjax.select`, which needs JAX, when it is asked for."""
    if name == "select":
        return importlib.import_module("fkjax.selection.select").select
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
