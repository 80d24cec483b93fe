"""Random projections of Fisher vectors to K values, preserving inner products.

A Fisher vector is a pytree of leaves, one for each parameter. `project` draws an
independent random `Sketch` for each leaf (`fkjax.sketch`) and adds the results, which
is an unbiased sketch of the whole vector. All functions take one example, and can be
batched by `vmap`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import key_for, path_of
from fkjax.fisher.factors import Factors, weight_gradient
from fkjax.sketch.base import Sketch, State
from fkjax.sketch.unstructured import gaussian


class Projection(NamedTuple):
    """A map from Fisher vectors to embeddings.

    Attributes:
        init: function `init(key, like) -> state` for vectors with the shapes of `like`,
            a pytree of arrays or of `jax.ShapeDtypeStruct`.
        apply: function `apply(state, vector) -> embedding` of one example. Shape [K].
        variance: function `variance(x, y)` that returns the variance, over keys, of the
            inner product of the embeddings of two vectors. Shape [].
    """

    init: Callable[[jax.Array, Any], State]
    apply: Callable[[State, Any], jax.Array]
    variance: Callable[[Any, Any], jax.Array]


def project(sketches: Sketch | Mapping[str, Sketch]) -> Projection:
    """Returns a projection that adds independent sketches of the leaves of a vector.

    The sketch of a leaf depends only on the key and on the path and shape of the leaf,
    not on the other leaves, their order, the batch or the device. The variance is
    sum_l Var_l + sum_{l != l'} (|x_l|^2 |y_l'|^2 + <x_l, y_l><x_l', y_l'>) / K.

    >>> from fkjax.sketch.unstructured import balanced_fold
    >>> vector = {"fc": {"kernel": jnp.ones((5, 4)), "bias": jnp.ones(4)}}
    >>> fold, dense = balanced_fold(rank=8), gaussian(rank=8)
    >>> projection = project({"fc/kernel": dense, "fc/bias": fold})
    >>> state = projection.init(jax.random.key(0), vector)
    >>> projection.apply(state, vector).shape
    (8,)

    Args:
        sketches: one sketch for all leaves, or a sketch for each leaf by its path
            (`fkjax.base.path_of`).

    Returns:
        The projection; leaves of a vector may also be `Factors`.

    Raises:
        ValueError: if the sketches differ in rank. The projection's `init` raises it if
            the paths of the sketches differ from those of the vector.
    """
    if not isinstance(sketches, Sketch):
        ranks = {path: sketch.rank for path, sketch in sketches.items()}
        if len(set(ranks.values())) != 1:
            raise ValueError(
                f"there must be one or more sketches, all of one rank, as they are "
                f"added; got ranks {ranks}"
            )

    def sketch_of(path: str) -> Sketch:
        return sketches if isinstance(sketches, Sketch) else sketches[path]

    def init(key: jax.Array, like: Any) -> State:
        leaves = _leaves(like)
        if not isinstance(sketches, Sketch) and set(sketches) != set(leaves):
            raise ValueError(
                f"expected one sketch for each of the vector's leaves "
                f"{sorted(leaves)}, got sketches for {sorted(sketches)}"
            )
        return {
            path: sketch_of(path).init(key_for(key, f"projection {path}"), leaf.shape)
            for path, leaf in leaves.items()
        }

    def apply(state: State, vector: Any) -> jax.Array:
        leaves = _leaves(vector)
        _check_paths(state, leaves)
        embeddings = [
            sketch_of(path).apply_factors(state[path], *leaf)
            if isinstance(leaf, Factors)
            else sketch_of(path).apply(state[path], leaf)
            for path, leaf in leaves.items()
        ]
        return functools.reduce(jnp.add, embeddings)

    def variance(x: Any, y: Any) -> jax.Array:
        xs, ys = _leaves(x), _leaves(y)
        within = [sketch_of(path).variance(xs[path], ys[path]) for path in xs]
        xx, yy, xy = (
            jnp.stack([jnp.vdot(a[path], b[path]) for path in xs])
            for a, b in ((xs, xs), (ys, ys), (xs, ys))
        )
        pairs = jnp.outer(xx, yy) + jnp.outer(xy, xy)
        between = (pairs * (1 - jnp.eye(len(xs)))).sum()
        return jnp.stack(within).sum() + between / sketch_of(next(iter(xs))).rank

    return Projection(init, apply, variance)


def identity() -> Projection:
    """Returns the exact projection, which flattens the Fisher vector: K = P.

    It is meant for small models and tests.

    >>> projection = identity()
    >>> vector = {"bias": jnp.ones(2), "kernel": jnp.zeros((1, 2))}
    >>> projection.apply(projection.init(jax.random.key(0), vector), vector)
    Array([1., 1., 0., 0.], dtype=float32)
    """

    def init(key: jax.Array, like: Any) -> State:
        del key, like
        return {}

    def apply(state: State, vector: Any) -> jax.Array:
        del state
        leaves = _leaves(vector).values()
        leaves = [weight_gradient(*x) if isinstance(x, Factors) else x for x in leaves]
        return jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in leaves])

    return Projection(init, apply, _exact)


def validation_span(vectors: Any, *, rank: int) -> Projection:
    """Returns the projection to the span of M validation vectors.

    The embedding is Q^T x, where the columns of Q are an orthonormal basis of the
    validation vectors, followed by zeros if M < K. Inner products with the embedding of
    a validation vector are exact. Those of two pool vectors lack the part outside of
    the span. The projection is not random. The state takes 4 P M bytes.

    >>> validation = {"w": jnp.eye(3)[:2]}
    >>> projection = validation_span(validation, rank=2)
    >>> state = projection.init(jax.random.key(0), {"w": jnp.zeros(3)})
    >>> y = projection.apply(state, {"w": jnp.array([3.0, 4.0, 12.0])})
    >>> print(f"{jnp.vdot(y, y):.3f}")
    25.000

    Args:
        vectors: Fisher vectors of the validation set, with a leading axis M on each
            leaf.
        rank: number of values of an embedding, K, at least M.

    Returns:
        The projection.

    Raises:
        ValueError: if M is more than K. The projection's `init` raises it if the shapes
            of the pool's vectors differ from those of the validation set.
    """
    leaves = _leaves(vectors)
    sizes = {len(leaf) for leaf in leaves.values()}
    if len(sizes) != 1 or not 1 <= max(sizes) <= rank:
        raise ValueError(
            f"each leaf must have a leading axis of 1 to {rank} validation examples "
            f"(the rank), got lengths {sorted(sizes)}; raise the rank or use a sketch"
        )

    def init(key: jax.Array, like: Any) -> State:
        del key
        given = {path: leaf.shape for path, leaf in _leaves(like).items()}
        expected = {path: leaf.shape[1:] for path, leaf in leaves.items()}
        if given != expected:
            raise ValueError(
                f"pool vectors must have the leaves of the validation vectors, "
                f"{expected}, got pool vectors of {given}"
            )
        flat = [x.reshape(len(x), -1).astype(jnp.float32) for x in leaves.values()]
        # Householder reflections give orthonormal columns for dependent vectors, too.
        basis, _ = jnp.linalg.qr(jnp.concatenate(flat, axis=1).T)
        ends = np.cumsum([x.shape[1] for x in flat])[:-1]
        basis = jnp.pad(basis, ((0, 0), (0, rank - basis.shape[1])))
        return dict(zip(leaves, jnp.split(basis, ends), strict=True))

    # `apply` of dense sketches is a sum over leaves of products with their matrices.
    return Projection(init, project(gaussian(rank=rank)).apply, _exact)


def _exact(x: Any, y: Any) -> jax.Array:
    del x, y
    return jnp.zeros(())


def _check_paths(state: State, leaves: dict[str, Any]) -> None:
    if set(state) != set(leaves):
        raise ValueError(
            f"the projection was made for leaves {sorted(state)}, got {sorted(leaves)}"
        )


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves by path; `Factors` are one leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: isinstance(x, Factors)
    )
    return {path_of(path): leaf for path, leaf in leaves}
