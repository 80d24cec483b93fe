"""Fisher vectors of many examples, compressed as they are made: no `[N, D]`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fkjax.base import LogProbs, key_for
from fkjax.fisher import capture
from fkjax.fisher.factors import Factors
from fkjax.sketch.projection import Projection, State

LabelRule = Callable[[jax.Array, jax.Array], jax.Array]
"""`rule(log_probs, i)`: the label of the example at position i. Shape []."""


def predicted(log_probs: jax.Array, i: jax.Array) -> jax.Array:
    """The `LabelRule` that takes the model's own prediction."""
    del i
    return log_probs.argmax()


def sampled(key: jax.Array) -> LabelRule:
    """The `LabelRule` that draws from the model: s ~ p(y | x), of each example anew.

    The second moment of such Fisher vectors is the Fisher information. A draw depends
    on the key and the example's position alone.
    """
    return lambda log_probs, i: jax.random.categorical(
        key_for(key, "label", i), log_probs
    )


def embed(
    log_probs_fn: LogProbs,
    theta: Any,
    xs: Any,
    labels: jax.Array | LabelRule,
    projection: Projection,
    state: State,
    *,
    batch_size: int = 32,
    start: int | jax.Array = 0,
) -> jax.Array:
    """The projected Fisher vector of each example, a microbatch at a time.

    One forward and one backward pass each. The gradient of a layer's weights is handed
    to the projection as its two factors, which some sketches never multiply out.

    XLA gives a convolution that stands in a loop one thread on CPU, as in the loop over
    microbatches here. It matters for large convolutions; a call for each microbatch
    avoids it. (Those of `fkjax.models.lenet` are written as matrix products.)

    >>> from fkjax.sketch.projection import project
    >>> from fkjax.sketch import balanced_fold
    >>> softmax_regression = lambda theta, x: jax.nn.log_softmax(x @ theta["w"])
    >>> theta, xs = {"w": jnp.zeros((3, 2))}, jnp.ones((5, 3))
    >>> projection = project(balanced_fold(rank=4))
    >>> state = projection.init(jax.random.key(0), theta)
    >>> embed(softmax_regression, theta, xs, predicted, projection, state).shape
    (5, 4)

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: a pytree of the parameters to differentiate by.
        xs: examples, with a leading axis N on every leaf.
        labels: the (pseudo-)label of each, shape [N]; or a rule, such as `predicted`
            or `sampled(key)`.
        projection: of pytrees like theta.
        state: of the projection, by its `init(key, theta)`.
        batch_size: examples at a time: speed and memory, not the result.
        start: the position of the first example, for a rule, where these N are a part
            of more.

    Returns:
        Shape [N, K], in float32. An example whose log-probabilities or gradient are
        not finite has a row that is not; `fkjax.fisher.kernel.check_finite` names it.

    Raises:
        ValueError: if the shapes do not agree.
    """
    num = _check(log_probs_fn, theta, xs, batch_size)
    if isinstance(labels, jax.Array) or not callable(labels):
        given = jnp.asarray(labels)
        if given.shape != (num,) or not jnp.issubdtype(given.dtype, jnp.integer):
            raise ValueError(
                f"labels must be {num} whole numbers, one for each example, got "
                f"{given.dtype} of shape {given.shape}"
            )
        rule = _given(given, start)
    else:
        rule = labels
    vector = _vectors(log_probs_fn, theta, xs)

    def one(x: Any, i: jax.Array) -> jax.Array:
        log_p, backward = capture.forward(log_probs_fn, theta, x)
        label = rule(log_p, start + i)
        captured = backward(jax.nn.one_hot(label, log_p.size, dtype=log_p.dtype))
        return projection.apply(state, vector(captured))

    return _map(one, batch_size, xs, jnp.arange(num))


def embed_all_classes(
    log_probs_fn: LogProbs,
    theta: Any,
    xs: Any,
    projection: Projection,
    state: State,
    *,
    batch_size: int = 16,
) -> jax.Array:
    """`embed` under each of the C labels: one forward and C backward passes each.

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: a pytree of the parameters to differentiate by.
        xs: examples, with a leading axis N on every leaf.
        projection: of pytrees like theta.
        state: of the projection, by its `init(key, theta)`.
        batch_size: examples at a time, of C embeddings each.

    Returns:
        Shape [N, C, K], in float32.

    Raises:
        ValueError: if the shapes do not agree.
    """
    _check(log_probs_fn, theta, xs, batch_size)
    vector = _vectors(log_probs_fn, theta, xs)

    def one(x: Any) -> jax.Array:
        captured = capture.capture_all_classes(log_probs_fn, theta, x)
        inputs = {
            path: tuple(f.a for f in uses) for path, uses in captured.factors.items()
        }
        errors = {
            path: tuple(f.d for f in uses) for path, uses in captured.factors.items()
        }

        def of_class(errors: Any, rest: Any) -> jax.Array:
            factors = {
                path: tuple(map(Factors, inputs[path], errors[path])) for path in inputs
            }
            return projection.apply(state, vector(capture.Captured(factors, rest)))

        return jax.vmap(of_class)(errors, captured.rest)

    return _map(one, batch_size, xs)


def _given(labels: jax.Array, start: int | jax.Array) -> LabelRule:
    return lambda log_probs, i: labels[i - start]


def _vectors(
    log_probs_fn: LogProbs, theta: Any, xs: Any
) -> Callable[[capture.Captured], Any]:
    """How to make what a projection takes: factors where a leaf is plainly a^T d."""
    plan = capture.plan(log_probs_fn, theta, _one(xs))
    plain = {path for path in plan.uses if capture.is_plain(plan.uses[path])}

    def vector(captured: capture.Captured) -> Any:
        leaves: dict[str, Any] = dict(captured.rest)
        for path, uses in plan.uses.items():
            factors = captured.factors[path]
            if path in plain:  # several uses are added like more positions
                a, d = zip(*factors, strict=True)
                leaves[path] = Factors(jnp.concatenate(a), jnp.concatenate(d))
            else:
                leaves[path] = capture.leaf_gradient(uses, factors)
        return plan.treedef.unflatten([leaves[path] for path in plan.paths])

    return vector


def _map(one: Callable[..., jax.Array], batch_size: int, *xs: Any) -> jax.Array:
    """`vmap`, a microbatch at a time."""
    if len(jax.tree.leaves(xs)[0]) <= batch_size:  # no loop, for what `embed` says
        return jax.vmap(one)(*xs)
    return jax.lax.map(lambda xs: one(*xs), xs, batch_size=batch_size)


def _one(xs: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)


def _check(log_probs_fn: LogProbs, theta: Any, xs: Any, batch_size: int) -> int:
    """Returns N."""
    shapes = [x.shape for x in jax.tree.leaves(xs)]
    if not shapes or not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            "every array of the examples needs the same leading axis N, got shapes "
            f"{shapes}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    log_p = jax.eval_shape(log_probs_fn, theta, _one(xs))
    if getattr(log_p, "ndim", None) != 1:
        raise ValueError(
            "log_probs_fn must return the log-probabilities of one example, of shape "
            f"[C], got {log_p}"
        )
    return shapes[0][0]
