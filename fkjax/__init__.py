"""Active learning for biased pools, by Fisher-kernel features, in JAX.

The names here are loaded when they are first used: `import fkjax` loads no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkjax.acquisition import STRATEGIES as STRATEGIES
    from fkjax.base import Model as Model
    from fkjax.base import Query as Query
    from fkjax.base import Strategy as Strategy
    from fkjax.base import UserError as UserError
    from fkjax.base import Variables as Variables
    from fkjax.base import View as View
    from fkjax.fisher.descriptors import descriptor as descriptor
    from fkjax.fisher.vectors import fisher_vectors as fisher_vectors
    from fkjax.fisher.vectors import of_parameters as of_parameters
    from fkjax.models import MODELS as MODELS
    from fkjax.models import from_linen as from_linen
    from fkjax.models import from_module as from_module
    from fkjax.models import from_nnx as from_nnx
    from fkjax.models import from_outputs as from_outputs
    from fkjax.selection.choose import Selection as Selection
    from fkjax.selection.choose import choose as choose
    from fkjax.selection.pick import Pick as Pick
    from fkjax.selection.problem import Problem as Problem
    from fkjax.selection.select import select as select
    from fkjax.sketch.embedding import embed as embed
    from fkjax.sketch.embedding import fisher_sketch as fisher_sketch
    from fkjax.sketch.projection import project as project
    from fkjax.testing import check_strategy as check_strategy

__version__ = "0.1.0"

_HOMES = {
    "acquisition": "STRATEGIES",
    "base": "Model Query Strategy UserError Variables View",
    "fisher.descriptors": "descriptor",
    "fisher.vectors": "fisher_vectors of_parameters",
    "models": "MODELS from_linen from_module from_nnx from_outputs",
    "selection.choose": "Selection choose",
    "selection.pick": "Pick",
    "selection.problem": "Problem",
    "selection.select": "select",
    "sketch.embedding": "embed fisher_sketch",
    "sketch.projection": "project",
    "testing": "check_strategy",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Loads a name from its module."""
    if name in _HOME:
        return getattr(importlib.import_module(f"fkjax.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
