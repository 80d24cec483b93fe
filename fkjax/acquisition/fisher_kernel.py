"""Strategies that match mistakes, and differ in the label they assume for the pool.

Source: Gudovskiy et al. 2020, Sec. 4. Each factory takes the model, the taps whose
activations enter the descriptors, the budget B, how many images are described at a time
(which changes the speed, not the result), and the kernel of z and g; those that look at
perturbed copies, in place of the kernel, how many. Such copies count as images.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition import pseudo_label
from fkjax.acquisition.matching import match_rows
from fkjax.acquisition.perturbation import copies
from fkjax.base import Examples, Model, Query, Strategy, View, key_for
from fkjax.fisher.descriptors import LabelFn, descriptor, features
from fkjax.fisher.kernel import Kernel, multi_scale, pearson_features
from fkjax.parallel.mapping import map_examples, map_rows

_VALIDATION = frozenset({"validation", "validation_mistakes"})


class _Embedding(NamedTuple):
    z: jax.Array  # Pearson features of z. Shape [N, L].
    joint: jax.Array  # that of z and g, by which examples are matched. Shape [N, L'].
    label: jax.Array  # under which g was taken. Shape [N].


_LabelOf = Callable[[jax.Array, Any], LabelFn]  # of an image and a hint
_Embed = Callable[..., _Embedding]  # of images, a hint for each, and a `_LabelOf`


class _Round(NamedTuple):
    """What the label assumed for a pool example may follow from."""

    key: jax.Array
    view: View
    validation: _Embedding  # under the true labels
    embed: _Embed


def feature_match(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Matches by R_z: no gradient, no label but which validation examples are wrong."""

    def query(key: jax.Array, view: View) -> Query:
        def embed(image: jax.Array) -> jax.Array:
            _, z = features(model, view.variables, image, taps=taps)
            return pearson_features(z)

        pool = map_rows(embed, view.pool, batch_size=batch_size)
        validation = map_examples(embed, view.validation, batch_size=batch_size)
        indices, targets, scores, is_bad = match_rows(
            key,
            pool.map(lambda z: (z, _is_bad(z))),
            view.is_unlabeled,
            validation,
            view.validation_mistakes,
            budget=budget,
        )
        nothing = jnp.full(budget, -1, jnp.int32)
        return Query(indices, nothing, targets, scores, is_bad, _is_bad(validation))

    return Strategy(_VALIDATION, query)


def fisher_argmax(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
) -> Strategy:
    """Matches by R_{z,g} under S = y-hat, the model's own prediction."""

    def assume(now: _Round) -> tuple[None, _LabelOf]:
        del now
        return None, _predicted

    return _fisher_strategy(model, assume, taps, budget, batch_size, kernel)


def fisher_nearest(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
) -> Strategy:
    """Matches by R_{z,g} under S = p-hat(y, z), the nearest validation label by R_z."""

    def assume(now: _Round) -> tuple[None, _LabelOf]:
        label_fn = pseudo_label.nearest(now.validation.z, now.view.validation_labels)
        return None, lambda image, _: label_fn

    return _fisher_strategy(model, assume, taps, budget, batch_size, kernel)


def fisher_nearest_joint(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
) -> Strategy:
    """Matches by R_{z,g} under the nearest validation label by R_{z,g} itself.

    For that search, all gradients are under the model's own predictions.
    """

    def assume(now: _Round) -> tuple[None, _LabelOf]:
        validation = now.embed(now.view.validation, None, _predicted)
        label_fn = pseudo_label.nearest_joint(
            validation.joint, now.view.validation_labels, kernel
        )
        return None, lambda image, _: label_fn

    return _fisher_strategy(model, assume, taps, budget, batch_size, kernel)


def fisher_oracle(
    model: Model,
    *,
    taps: Sequence[str],
    budget: int,
    batch_size: int = 100,
    kernel: Kernel = multi_scale,
) -> Strategy:
    """Matches by R_{z,g} under S = y, the hidden label: the ceiling, an ablation."""

    def assume(now: _Round) -> tuple[jax.Array, _LabelOf]:
        return now.view.pool_labels, _given

    strategy = _fisher_strategy(model, assume, taps, budget, batch_size, kernel)
    return strategy._replace(sees=strategy.sees | {"pool_labels"})


def _by_copies(estimator: pseudo_label.Estimator) -> Callable[..., Strategy]:
    """The factory of strategies that assume what an estimator makes of the copies.

    An example's copies depend on its position and the key of the round alone.
    """

    def factory(
        model: Model,
        *,
        taps: Sequence[str],
        budget: int,
        num_copies: int = 128,
        batch_size: int = 128,
    ) -> Strategy:

        def assume(now: _Round) -> tuple[jax.Array, _LabelOf]:
            def label_of(image: jax.Array, position: jax.Array) -> LabelFn:
                key = key_for(now.key, "copies", position)
                perturbed = copies(key, image, model.std, num_copies=num_copies)
                return estimator(model, now.view.variables, perturbed, taps=taps)

            return jnp.arange(len(now.view.pool)), label_of

        return _fisher_strategy(
            model, assume, taps, budget, batch_size, multi_scale, num_copies
        )

    return factory


fisher_covariance = _by_copies(pseudo_label.covariance)
"""Matches by R_{z,g} under S = tr(C_{z,g}), the largest covariance of z and g."""

fisher_information = _by_copies(pseudo_label.information)
"""Matches by R_{z,g} under S = I(z; g), the largest mutual information."""

fisher_information_diagonal = _by_copies(pseudo_label.information_diagonal)
"""`fisher_information` with each channel's z and g alone."""


def _is_bad(embeddings: jax.Array) -> jax.Array:
    return ~jnp.isfinite(embeddings).all(axis=1)


def _predicted(image: jax.Array, hint: Any) -> LabelFn:
    del image, hint
    return pseudo_label.argmax()


def _given(image: jax.Array, label: jax.Array) -> LabelFn:
    del image
    return pseudo_label.given(label)


def _fisher_strategy(
    model: Model,
    assume: Callable[[_Round], tuple[Any, _LabelOf]],
    taps: Sequence[str],
    budget: int,
    batch_size: int,
    kernel: Kernel,
    num_copies: int = 1,
) -> Strategy:
    """`assume` gives a hint for each pool example, and the label function of each."""

    def query(key: jax.Array, view: View) -> Query:
        def embed(
            map_fn: Callable,
            images: Examples,
            hints: Any,
            label_of: _LabelOf,
            num_copies: int = 1,
        ) -> Any:
            def one(image: jax.Array, hint: Any) -> _Embedding:
                label_fn = label_of(image, hint)
                d = descriptor(model, view.variables, image, label_fn, taps=taps)
                return _Embedding(
                    pearson_features(d.z), kernel.embed(d.z, d.g), d.label
                )

            at_once = max(1, batch_size // num_copies)
            return map_fn(one, images, hints, batch_size=at_once)

        all_of = functools.partial(embed, map_examples)
        validation = all_of(view.validation, view.validation_labels, _given)
        hints, label_of = assume(_Round(key, view, validation, all_of))
        pool = embed(map_rows, view.pool, hints, label_of, num_copies)
        indices, targets, scores, (labels, is_bad) = match_rows(
            key,
            pool.map(lambda e: (e.joint, (e.label, _is_bad(e.joint)))),
            view.is_unlabeled,
            validation.joint,
            view.validation_mistakes,
            budget=budget,
            similarity=kernel.similarity,
        )
        is_bad_validation = _is_bad(validation.joint)
        return Query(
            indices, labels[indices], targets, scores, is_bad, is_bad_validation
        )

    return Strategy(_VALIDATION | {"validation_labels"}, query)
