"""Strategies that match the mistakes of the model on the validation set.

They query the pool examples that are most similar to the misclassified validation
examples, and differ in the label S that they assume for an unlabeled example.

Each factory takes these arguments:

- `model`: the classifier.
- `taps`: names of the taps whose activations enter the descriptors.
- `budget`: number of examples to query, B.
- `batch_size`: number of images processed at a time. It affects the speed, not the
  result.
- `kernel`: kernel of z and g (not for `feature_match`).

Strategies with perturbed copies take these instead of `batch_size` and `kernel`:

- `num_copies`: number of perturbed copies of each pool example, K.
- `copies_at_once`: number of images processed at a time, including copies. It affects
  the speed, not the result.

Source: Gudovskiy et al. 2020, Sec. 4.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition import pseudo_label
from fkjax.acquisition.access import require_pixels
from fkjax.acquisition.matching import match_rows
from fkjax.acquisition.perturbation import copies
from fkjax.base import Examples, Model, Query, Strategy, View, key_for
from fkjax.fisher.descriptors import LabelFn, descriptor, features
from fkjax.fisher.kernel import Kernel, multi_scale, pearson_features
from fkjax.parallel.mapping import map_examples, map_rows

_VALIDATION = frozenset({"validation", "validation_mistakes"})


class _Embedding(NamedTuple):
    z: jax.Array  # Pearson features of z. Shape [N, L].
    joint: jax.Array  # Features of z and g, which are matched. Shape [N, L'].
    label: jax.Array  # Labels for which g was computed. Shape [N].


_LabelOf = Callable[[jax.Array, Any], LabelFn]  # takes an image and a hint
_Embed = Callable[..., _Embedding]  # takes images, a hint for each, and a `_LabelOf`


class _Round(NamedTuple):
    """The data of a round from which the labels of pool examples are assumed."""

    key: jax.Array
    view: View
    validation: _Embedding  # for the true labels
    embed: _Embed


def feature_match(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Returns the strategy that matches by R_z, the similarity of the features.

    It needs no gradients and, instead of the validation labels, only whether each
    prediction is wrong. See the documentation of the module for the arguments.
    """

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
    """Returns the strategy that matches by R_{z,g} with S = y-hat.

    S is the label predicted by the model. See the documentation of the module for the
    arguments.
    """

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
    """Returns the strategy that matches by R_{z,g} with S = p-hat(y, z).

    S is the label of the validation example that is most similar by R_z. See the
    documentation of the module for the arguments.
    """

    def assume(now: _Round) -> tuple[None, _LabelOf]:
        label_fn = pseudo_label.nearest(
            now.validation.z,
            now.view.validation_labels,
            key=key_for(now.key, "ties of labels"),
        )
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
    """Returns the strategy that matches by R_{z,g} with S = p-hat(y, z, g).

    S is the label of the validation example that is most similar by R_{z,g}, where all
    gradients are taken for the labels predicted by the model. See the documentation of
    the module for the arguments.
    """

    def assume(now: _Round) -> tuple[None, _LabelOf]:
        validation = now.embed(now.view.validation, None, _predicted)
        label_fn = pseudo_label.nearest_joint(
            validation.joint,
            now.view.validation_labels,
            kernel,
            key=key_for(now.key, "ties of labels"),
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
    """Returns the strategy that matches by R_{z,g} with S = y, the hidden label.

    It is an upper bound, for ablations. See the documentation of the module for the
    arguments.
    """

    def assume(now: _Round) -> tuple[jax.Array, _LabelOf]:
        return now.view.pool_labels, _given

    strategy = _fisher_strategy(model, assume, taps, budget, batch_size, kernel)
    return strategy._replace(sees=strategy.sees | {"pool_labels"})


def _by_copies(estimator: pseudo_label.Estimator) -> Callable[..., Strategy]:
    """Returns the factory of strategies that estimate S from perturbed copies.

    The copies of an example depend only on its position and on the key of the round.
    """

    def factory(
        model: Model,
        *,
        taps: Sequence[str],
        budget: int,
        num_copies: int = 128,
        copies_at_once: int = 128,
    ) -> Strategy:

        def assume(now: _Round) -> tuple[jax.Array, _LabelOf]:
            def label_of(image: jax.Array, position: jax.Array) -> LabelFn:
                require_pixels(image, "perturbed copies")
                key = key_for(now.key, "copies", position)
                perturbed = copies(key, image, model.std, num_copies=num_copies)
                return estimator(model, now.view.variables, perturbed, taps=taps)

            return jnp.arange(len(now.view.pool)), label_of

        return _fisher_strategy(
            model, assume, taps, budget, copies_at_once, multi_scale, num_copies
        )

    return factory


fisher_covariance = _by_copies(pseudo_label.covariance)
"""Matches by R_{z,g} with the label S of the largest tr(C_{z,g}).

C_{z,g} is the covariance of z and g.
"""

fisher_information = _by_copies(pseudo_label.information)
"""Matches by R_{z,g} with the label S of the largest mutual information I(z; g)."""

fisher_information_diagonal = _by_copies(pseudo_label.information_diagonal)
"""Matches like `fisher_information`, with I(z; g) summed over single channels."""


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
    """Returns the strategy that matches by R_{z,g} with the labels of `assume`.

    Args:
        model: the classifier.
        assume: function that returns a hint for each pool example, and the function
            that makes a label function from an image and its hint.
        taps: names of the taps whose activations enter the descriptors.
        budget: number of examples to query, B.
        batch_size: number of images processed at a time.
        kernel: kernel of z and g.
        num_copies: number of images processed for one pool example.
    """

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
