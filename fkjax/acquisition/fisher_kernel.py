"""Strategies that match mistakes, and differ in the label they assume for the pool.

Source: Gudovskiy et al. 2020, Sec. 4. Each factory takes the model, the taps whose
activations enter the descriptors, the budget B, and how many examples are described
at a time (which changes the speed, not the result).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax import pseudo_label
from fkjax.acquisition.matching import match
from fkjax.base import Images, Model, Query, Strategy, View
from fkjax.fisher import LabelFn, descriptor, features
from fkjax.images import map_examples
from fkjax.kernel import pearson_features

_VALIDATION = frozenset({"validation_images", "validation_mistakes"})


class _Embedding(NamedTuple):
    z: jax.Array  # Pearson features of z. Shape [N, L].
    g: jax.Array  # Pearson features of g. Shape [N, L].
    label: jax.Array  # under which g was taken. Shape [N].

    @property
    def joint(self) -> jax.Array:
        return jnp.concatenate([self.z, self.g], axis=1)


def feature_match(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Matches by R_z: no gradient, no label but which validation examples are wrong."""

    def query(key: jax.Array, view: View) -> Query:
        def embed(image: jax.Array) -> jax.Array:
            _, z = features(model, view.variables, image, taps=taps)
            return pearson_features(z)

        pool = map_examples(embed, view.pool_images, batch_size=batch_size)
        validation = map_examples(embed, view.validation_images, batch_size=batch_size)
        indices, targets, scores = match(
            key,
            pool,
            view.is_unlabeled,
            validation,
            view.validation_mistakes,
            budget=budget,
        )
        return Query(indices, jnp.full(budget, -1, jnp.int32), targets, scores)

    return Strategy(_VALIDATION, query)


def fisher_argmax(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Matches by R_{z,g} under S = y-hat, the model's own prediction."""

    def assume(view: View, validation: _Embedding) -> tuple[None, Callable]:
        del view, validation
        return None, lambda _: pseudo_label.argmax()

    return _fisher_strategy(model, assume, taps, budget, batch_size)


def fisher_nearest(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Matches by R_{z,g} under S = p-hat(y, z), the nearest validation label by R_z."""

    def assume(view: View, validation: _Embedding) -> tuple[None, Callable]:
        label_fn = pseudo_label.nearest(validation.z, view.validation_labels)
        return None, lambda _: label_fn

    return _fisher_strategy(model, assume, taps, budget, batch_size)


def fisher_oracle(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Matches by R_{z,g} under S = y, the hidden label: the ceiling, an ablation."""

    def assume(view: View, validation: _Embedding) -> tuple[jax.Array, Callable]:
        del validation
        return view.pool_labels, pseudo_label.given

    strategy = _fisher_strategy(model, assume, taps, budget, batch_size)
    return strategy._replace(sees=strategy.sees | {"pool_labels"})


def _fisher_strategy(
    model: Model,
    assume: Callable[[View, _Embedding], tuple[Any, Callable[[Any], LabelFn]]],
    taps: Sequence[str],
    budget: int,
    batch_size: int,
) -> Strategy:
    """`assume` gives a hint for each pool example, and a label function of the hint."""

    def query(key: jax.Array, view: View) -> Query:
        def embed(
            images: Images, hints: Any, label_fn: Callable[[Any], LabelFn]
        ) -> _Embedding:
            def one(image: jax.Array, hint: Any) -> _Embedding:
                d = descriptor(model, view.variables, image, label_fn(hint), taps=taps)
                return _Embedding(pearson_features(d.z), pearson_features(d.g), d.label)

            return map_examples(one, images, hints, batch_size=batch_size)

        validation = embed(
            view.validation_images, view.validation_labels, pseudo_label.given
        )
        pool = embed(view.pool_images, *assume(view, validation))
        indices, targets, scores = match(
            key,
            pool.joint,
            view.is_unlabeled,
            validation.joint,
            view.validation_mistakes,
            budget=budget,
        )
        return Query(indices, pool.label[indices], targets, scores)

    return Strategy(_VALIDATION | {"validation_labels"}, query)
