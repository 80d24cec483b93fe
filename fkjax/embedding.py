"""Fisher vectors of many examples, compressed as they are made: no `[N, D]`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fkjax import factored
from fkjax.fisher import LogProbs
from fkjax.projection import Projection
from fkjax.sketch import State


def embed(
    log_probs_fn: LogProbs,
    theta: Any,
    xs: Any,
    labels: jax.Array,
    projection: Projection,
    state: State,
    *,
    batch_size: int = 64,
) -> jax.Array:
    """The projected Fisher vector of each example, a microbatch at a time.

    One forward and one backward pass each. The gradient of a dense layer's weights is
    handed to the projection as its two factors, which some sketches never multiply out.

    >>> from fkjax.projection import project
    >>> from fkjax.sketch import balanced_fold
    >>> softmax_regression = lambda theta, x: jax.nn.log_softmax(x @ theta["w"])
    >>> theta, xs = {"w": jnp.zeros((3, 2))}, jnp.ones((5, 3))
    >>> projection = project(balanced_fold(rank=4))
    >>> state = projection.init(jax.random.key(0), theta)
    >>> labels = jnp.zeros(5, int)
    >>> embed(softmax_regression, theta, xs, labels, projection, state).shape
    (5, 4)

    Args:
        log_probs_fn: the log-probabilities of one example.
        theta: a pytree of the parameters to differentiate by.
        xs: examples, with a leading axis N on every leaf.
        labels: the (pseudo-)label of each. Shape [N].
        projection: of pytrees like theta.
        state: of the projection, by its `init(key, theta)`.
        batch_size: examples at a time: speed and memory, not the result.

    Returns:
        Shape [N, K], in float32.
    """
    one_x = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    plan = factored.plan(log_probs_fn, theta, one_x)
    dense = {path for path, uses in plan.uses.items() if _is_one_product(uses)}

    def one(x_and_label: tuple[Any, jax.Array]) -> jax.Array:
        captured = factored.capture(log_probs_fn, theta, *x_and_label)
        leaves: dict[str, Any] = dict(captured.rest)
        for path, uses in plan.uses.items():
            factors = captured.factors[path]
            if path in dense:
                leaves[path] = factors[0]
            else:
                leaves[path] = factored.leaf_gradient(uses, factors)
        vector = plan.treedef.unflatten([leaves[path] for path in plan.paths])
        return projection.apply(state, vector)

    return jax.lax.map(one, (xs, labels), batch_size=batch_size)


def _is_one_product(uses: tuple[factored.Use, ...]) -> bool:
    """Whether the leaf is a^T d of one use at one position, its axes merely merged."""
    (use, *others) = uses
    if others or use.positions != 1:
        return False
    places = np.arange(use.num_inputs * use.num_outputs, dtype=np.float32)
    with jax.ensure_compile_time_eval():
        leaf = use.to_leaf(jnp.asarray(places.reshape(use.num_inputs, -1)))
    return bool((np.asarray(leaf).ravel() == places).all())
