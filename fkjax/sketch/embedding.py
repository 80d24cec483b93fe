"""Embeddings of many examples, computed one microbatch at a time.

The array [N, D] of the Fisher vectors is never formed.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial

from fkjax.base import LogProbs, key_for
from fkjax.fisher import capture
from fkjax.fisher.factors import Factors
from fkjax.fisher.labels import check_labels, class_weights
from fkjax.sketch.base import Sketch
from fkjax.sketch.planner import SketchPlan, auto
from fkjax.sketch.projection import Projection, State, project

_BACKWARD_PASSES, _CLASSES = 256, 16  # of a microbatch at a time, for all classes

LabelRule = Callable[[jax.Array, jax.Array], jax.Array]
"""A function `rule(log_probs, i)` that returns the label of the example at position i.
Shape []."""


def predicted(log_probs: jax.Array, i: jax.Array) -> jax.Array:
    """Returns the label that the model predicts; a `LabelRule`."""
    del i
    return log_probs.argmax()


def sampled(key: jax.Array) -> LabelRule:
    """Returns a `LabelRule` that samples labels from the model: s ~ p(y | x).

    The second moment of Fisher vectors with these labels is the Fisher information. A
    label depends only on the key, the example's probabilities and its position.
    """
    return Partial(_sample, key)


def _sample(key: jax.Array, log_probs: jax.Array, i: jax.Array) -> jax.Array:
    # In float32, so that 64-bit types do not change the draws.
    log_probs = log_probs.astype(jnp.float32)
    return jax.random.categorical(key_for(key, "label", i), log_probs)


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
    """Computes the projected Fisher vector of each example, one microbatch at a time.

    Each example takes one forward and one backward pass. The projection receives the
    gradient of a layer's weights as two factors, which some sketches do not multiply
    out. Outside of `jit`, the program is compiled once for the same functions, and used
    again in later calls. As under `jit`, arrays that `log_probs_fn` uses without being
    given them keep the values of the first call.

    On a CPU, XLA runs a convolution inside a loop, such as this loop over microbatches,
    with one thread. This slows down large convolutions; call the function once for each
    microbatch to avoid it. (The convolutions of `fkjax.models.lenet` are matrix
    products and are not affected.)

    >>> from fkjax.sketch.projection import project
    >>> from fkjax.sketch import balanced_fold
    >>> softmax_regression = lambda theta, x: jax.nn.log_softmax(x @ theta["w"])
    >>> theta, xs = {"w": jnp.zeros((3, 2))}, jnp.ones((5, 3))
    >>> projection = project(balanced_fold(rank=4))
    >>> state = projection.init(jax.random.key(0), theta)
    >>> embed(softmax_regression, theta, xs, predicted, projection, state).shape
    (5, 4)

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: pytree of the parameters of the Fisher vectors.
        xs: examples, with a leading axis N on each leaf.
        labels: label or pseudo-label of each example, of shape [N]; or a rule, such as
            `predicted` or `sampled(key)`. The row of a label that is not a class is
            NaN, or an error where the labels are known.
        projection: projection of pytrees like theta.
        state: state of the projection, from `projection.init(key, theta)`.
        batch_size: number of examples in a microbatch; it changes speed and memory, not
            the result.
        start: position of the first example, for a rule; not 0 if these N examples are
            part of a larger set.

    Returns:
        The embeddings, in float32. If the log-probabilities or the gradient of an
        example are not finite, neither is its row; `fkjax.fisher.kernel.check_finite`
        reports such rows. Shape [N, K].

    Raises:
        ValueError: if the shapes do not match, or a label is not a class and its value
            is known, that is, not under `jit`.
    """
    num, num_classes = _check(log_probs_fn, theta, xs, batch_size)
    if isinstance(labels, jax.Array) or not callable(labels):
        given = jnp.asarray(labels)
        if given.shape != (num,) or not jnp.issubdtype(given.dtype, jnp.integer):
            raise ValueError(
                f"labels must be {num} integers, one for each example, got "
                f"{given.dtype} of shape {given.shape}"
            )
        check_labels(labels, num_classes)
        rule, hints = Partial(_given), given
    else:
        rule = labels if isinstance(labels, Partial) else Partial(labels)
        hints = start + jnp.arange(num)
    return _run(
        _embed, projection, batch_size, log_probs_fn, theta, state, xs, hints, rule
    )


def _embed(
    projection: Projection,
    batch_size: int,
    log_probs_fn: LogProbs,
    theta: Any,
    state: State,
    xs: Any,
    hints: jax.Array,
    rule: LabelRule,
) -> jax.Array:
    vector = _vectors(log_probs_fn, theta, xs)

    def one(x: Any, hint: jax.Array) -> jax.Array:
        log_p, backward = capture.forward(log_probs_fn, theta, x)
        captured = backward(class_weights(rule(log_p, hint), log_p))
        return projection.apply(state, vector(captured))

    return _map(one, batch_size, xs, hints)


def embed_all_classes(
    log_probs_fn: LogProbs,
    theta: Any,
    xs: Any,
    projection: Projection,
    state: State,
    *,
    batch_size: int = 16,
) -> jax.Array:
    """Computes the projected Fisher vectors of each example under each of the C labels.

    Each example takes one forward and C backward passes, of which a microbatch runs at
    most 256 at a time (or those of 16 classes, if that is more).

    Args:
        log_probs_fn: function that returns the log-probabilities of one example.
        theta: pytree of the parameters of the Fisher vectors.
        xs: examples, with a leading axis N on each leaf.
        projection: projection of pytrees like theta.
        state: state of the projection, from `projection.init(key, theta)`.
        batch_size: number of examples in a microbatch, with C embeddings each.

    Returns:
        The embeddings, in float32. Shape [N, C, K].

    Raises:
        ValueError: if the shapes do not match.
    """
    _check(log_probs_fn, theta, xs, batch_size)
    return _run(
        _embed_all_classes, projection, batch_size, log_probs_fn, theta, state, xs
    )


def _embed_all_classes(
    projection: Projection,
    batch_size: int,
    log_probs_fn: LogProbs,
    theta: Any,
    state: State,
    xs: Any,
) -> jax.Array:
    vector = _vectors(log_probs_fn, theta, xs)
    at_once = max(_CLASSES, _BACKWARD_PASSES // batch_size)

    def one(x: Any) -> jax.Array:
        log_p, backward = capture.forward(log_probs_fn, theta, x, is_once=False)

        def of_class(weights: jax.Array) -> jax.Array:
            return projection.apply(state, vector(backward(weights)))

        each = jnp.eye(log_p.size, dtype=log_p.dtype)
        if log_p.size <= at_once:
            return jax.vmap(of_class)(each)
        return jax.lax.map(of_class, each, batch_size=at_once)

    return _map(one, batch_size, xs)


class FisherSketch(NamedTuple):
    """A projection of the Fisher vectors of a function to K values, by sketches.

    Attributes:
        init: function `init(key) -> state` that draws the random numbers.
        apply: function `apply(state, theta, xs, labels=predicted, *, batch_size=32)`
            that returns embeddings of shape [N, K], as `embed` does, for any values of
            theta.
        plan: sketch of each leaf of theta, with the reason for its choice.
    """

    init: Callable[[jax.Array], State]
    apply: Callable[..., jax.Array]
    plan: SketchPlan


def fisher_sketch(
    log_probs_fn: LogProbs,
    theta: Any,
    x: Any,
    *,
    rank: int = 512,
    sketches: Mapping[str, Sketch] | None = None,
) -> FisherSketch:
    """Plans a sketch of the Fisher vectors of a function, and creates it.

    Inner products of the embeddings are unbiased estimates of those of the Fisher
    vectors u(x, s) = grad_theta log p(s | x, theta).

    >>> softmax_regression = lambda theta, x: jax.nn.log_softmax(x @ theta["w"])
    >>> theta, xs = {"w": jnp.zeros((3, 2))}, jnp.ones((5, 3))
    >>> init, apply, plan = fisher_sketch(softmax_regression, theta, xs[0], rank=16)
    >>> state = init(jax.random.key(0))
    >>> apply(state, theta, xs, jnp.array([0, 1, 0, 1, 0])).shape
    (5, 16)
    >>> print(plan)
    w  balanced_fold  P=6: kept exactly

    Args:
        log_probs_fn: function `log_probs_fn(theta, x) -> [C]` that returns the
            log-probabilities of one example.
        theta: parameters, any pytree of arrays; only their shapes are used.
        x: one example, or its `jax.ShapeDtypeStruct`.
        rank: number of values of an embedding, K.
        sketches: sketches to use for some of the leaves, by path.

    Returns:
        The functions to draw and to apply the sketch, and its plan.

    Raises:
        ValueError: if `sketches` has a path that is not a leaf of theta, or a sketch of
            another rank.
    """
    plan = auto(log_probs_fn, theta, x, rank=rank, sketches=sketches)
    projection = project(plan.sketches)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), theta
    )

    def init(key: jax.Array) -> State:
        return projection.init(key, shapes)

    def apply(
        state: State,
        theta: Any,
        xs: Any,
        labels: jax.Array | LabelRule = predicted,
        *,
        batch_size: int = 32,
        start: int | jax.Array = 0,
    ) -> jax.Array:
        return embed(
            log_probs_fn,
            theta,
            xs,
            labels,
            projection,
            state,
            batch_size=batch_size,
            start=start,
        )

    return FisherSketch(init, apply, plan)


def _given(log_probs: jax.Array, label: jax.Array) -> jax.Array:
    del log_probs
    return label


def _run(
    fn: Callable[..., jax.Array],
    projection: Projection,
    batch_size: int,
    log_probs_fn: LogProbs,
    *args: Any,
) -> jax.Array:
    """Runs one of the two loops, compiled unless it is part of another program.

    `Partial` functions, and the arrays that they hold, are arguments of the program.
    """
    if not isinstance(log_probs_fn, Partial):
        log_probs_fn = Partial(log_probs_fn)
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(args)):
        return fn(projection, batch_size, log_probs_fn, *args)
    try:
        program = _compiled(fn, projection, batch_size, log_probs_fn.func)
    except TypeError:  # a function that has no hash
        return fn(projection, batch_size, log_probs_fn, *args)
    return program(log_probs_fn, *args)


@functools.lru_cache(maxsize=16)
def _compiled(
    fn: Callable[..., jax.Array],
    projection: Projection,
    batch_size: int,
    log_probs_fn: LogProbs,
) -> Callable[..., jax.Array]:
    del log_probs_fn  # when it is removed from this cache, its program is, too
    return jax.jit(functools.partial(fn, projection, batch_size))


def _vectors(
    log_probs_fn: LogProbs, theta: Any, xs: Any
) -> Callable[[capture.Captured], Any]:
    """Returns a function from captured gradients to the input of a projection.

    Its leaves are factors if the leaf is the sum of a^T d, and gradients otherwise.
    """
    plan = capture.plan(log_probs_fn, theta, _one(xs))
    plain = {path for path, uses in plan.uses.items() if capture.matrix_of(uses)}

    def vector(captured: capture.Captured) -> Any:
        leaves: dict[str, Any] = dict(captured.rest)
        for path, uses in plan.uses.items():
            factors = captured.factors[path]
            if path in plain:  # further uses of a leaf are like further positions
                a, d = zip(*factors, strict=True)
                leaves[path] = Factors(jnp.concatenate(a), jnp.concatenate(d))
            else:
                leaves[path] = capture.leaf_gradient(uses, factors)
        return plan.treedef.unflatten([leaves[path] for path in plan.paths])

    return vector


def _map(one: Callable[..., jax.Array], batch_size: int, *xs: Any) -> jax.Array:
    """Maps a function over examples, as `vmap` does, one microbatch at a time."""
    num = len(jax.tree.leaves(xs)[0])
    if num == 0:
        shape = jax.eval_shape(one, *_one(xs))
        return jnp.zeros((0, *shape.shape), shape.dtype)
    if num <= batch_size:  # without a loop; see `embed`
        return jax.vmap(one)(*xs)
    return jax.lax.map(lambda xs: one(*xs), xs, batch_size=batch_size)


def _one(xs: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)


def _check(
    log_probs_fn: LogProbs, theta: Any, xs: Any, batch_size: int
) -> tuple[int, int]:
    """Checks the arguments, and returns the numbers of examples and of classes."""
    shapes = [x.shape for x in jax.tree.leaves(xs)]
    if not shapes or not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            "all arrays of the examples must have the same leading axis N, got shapes "
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
    return shapes[0][0], log_p.size
