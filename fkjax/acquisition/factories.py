"""Strategies made from a model and the settings of a query."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from fkjax.base import Model, Strategy, UserError
from fkjax.fisher.kernel import Kernel, multi_scale

Factory = Callable[..., Strategy]
"""`factory(model, *, budget, ...) -> Strategy`: the settings that it needs by their
names in `Settings`, and keywords of its own with defaults."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a query; a factory takes the ones it names.

    Attributes:
        budget: number of examples in a query, B.
        taps: names of the activations in the descriptors.
        num_passes: passes under MC-dropout, T, of each member of an ensemble.
        num_copies: perturbed copies of each pool example, K.
        num_steps: training steps, in each query, of networks that a strategy trains.
        kernel: kernel of z and g by which Fisher strategies match.
        batch_size: examples computed at a time; it changes the speed, not the result.
        is_trained: whether the model has learned from labels before any pool example
            has one. If not, the first query by uncertainty is random.
        trains_on_validation: whether the model has learned from the labels of the
            validation set.
    """

    budget: int
    taps: tuple[str, ...] = ()
    num_passes: int = 128
    num_copies: int = 128
    num_steps: int = 1000
    kernel: Kernel = multi_scale
    batch_size: int = 100
    is_trained: bool = False
    trains_on_validation: bool = False


def make_strategy(factory: Factory, model: Model, settings: Settings) -> Strategy:
    """Calls a factory with the model and the settings that it names.

    >>> from fkjax.acquisition import margin
    >>> from fkjax.models import lenet
    >>> model = lenet((28, 28, 1), num_classes=10)
    >>> make_strategy(margin, model, Settings(budget=5)).sees
    frozenset({'correction'})

    Keywords of the factory's own are given by `functools.partial(factory, power=2)`.

    Args:
        factory: function of the model, and of settings as keywords.
        model: the classifier.
        settings: values of the keywords that `Settings` has.

    Raises:
        UserError: if the factory needs a keyword that is neither a setting nor given.
    """
    given = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
    }
    wanted: dict[str, Any] = {}
    fixed = factory.keywords if isinstance(factory, functools.partial) else {}
    for name, parameter in list(inspect.signature(factory).parameters.items())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            wanted = {**given, **wanted}
        elif parameter.kind is parameter.VAR_POSITIONAL or name in fixed:
            continue
        elif name in given:
            wanted[name] = given[name]
        elif parameter.default is parameter.empty:
            raise UserError(
                f"the strategy's factory needs {name}, which is no setting (they are "
                f"{', '.join(given)}): give it a default, or fix it by "
                "functools.partial"
            )
    return factory(model, **wanted)
