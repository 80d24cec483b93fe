"""Batch queries by diverse gradient embeddings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fkjax.acquisition.greedy import Gain, Picked, of_chunks, pick
from fkjax.base import Model, Query, Strategy, View, key_for
from fkjax.fisher.descriptors import features
from fkjax.parallel.mapping import map_rows
from fkjax.parallel.rows import Rows


class _Embedded(NamedTuple):
    distance: jax.Array  # Squared, to the nearest pick. Shape [].
    square: jax.Array  # Squared norm of the embedding. Shape [].
    position: jax.Array  # In the pool. Shape [].


def badge(
    model: Model, *, taps: Sequence[str], budget: int, batch_size: int = 100
) -> Strategy:
    """Returns the strategy of k-means++ on the gradients of the last layer.

    The embedding of an example is the gradient of the loss for the predicted class with
    respect to the weights of the last layer: the outer product of the layer's input h
    and p - e_y. Inner products are those of h times those of p - e_y, so that the outer
    product is not formed. The first pick has the largest norm; each of the others is
    drawn with a probability that is proportional to the squared distance to the nearest
    pick.

    Source: Ash et al. 2020 (BADGE); Arthur and Vassilvitskii 2007 (k-means++).

    Args:
        model: the classifier.
        taps: names of taps. The last of them that is not the model's last tap is the
            input of the last layer, as its spatial mean.
        budget: number of examples to query, B.
        batch_size: number of images processed at a time. It affects the speed, not the
            result.
    """
    inputs = [tap for tap in taps if tap != model.taps[-1]] or list(taps)
    last = inputs[-1]

    def query(key: jax.Array, view: View) -> Query:
        def embed(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            log_p, z = features(model, view.variables, image, taps=[last])
            p = jnp.exp(log_p)
            g = p - jax.nn.one_hot(p.argmax(), len(p), dtype=p.dtype)
            both = jnp.concatenate([z[last], g]).astype(jnp.result_type(float))
            is_bad = ~jnp.isfinite(both).all()
            return jnp.where(is_bad, 0, both), is_bad

        rows = map_rows(embed, view.pool, batch_size=batch_size).kept()
        pool = rows.map(lambda row: row[0])
        draws = key_for(key, "draws")
        gain = distances(draws, pool, num_classes=model.num_classes)
        indices, scores = pick(
            key_for(key, "picks"), pool, view.is_unlabeled, gain, budget=budget
        )
        is_bad = rows.gathered(rows.read(0, rows.size)[1]) & view.is_unlabeled
        nothing = jnp.full(budget, -1, jnp.int32)
        return Query(indices, nothing, nothing, scores, is_bad)

    return Strategy(frozenset(), query)


def distances(key: jax.Array, pool: Rows, *, num_classes: int) -> Gain:
    """Returns the gain by which k-means++ draws: the Gumbel-max trick on log distances.

    Args:
        key: random key of the draws.
        pool: rows (h, p - e_y), whose outer products are compared. Shape [N, d + C].
        num_classes: number of classes, C.
    """

    def square(phi: jax.Array) -> jax.Array:
        h, g = phi[:, :-num_classes], phi[:, -num_classes:]
        return (h**2).sum(axis=1) * (g**2).sum(axis=1)

    def value(step: jax.Array, row: _Embedded) -> jax.Array:
        draw = key_for(key, "draw", step, row.position)
        noise = jax.random.gumbel(draw, dtype=jnp.float32)
        drawn = jnp.log(row.distance) + noise.astype(row.distance.dtype)
        return jnp.where(step == 0, jnp.log(row.square), drawn)

    def directions(step: jax.Array, picked: Picked) -> jax.Array:
        del step
        is_gradient = jnp.arange(len(picked.row)) >= len(picked.row) - num_classes
        h, g = (jnp.where(part, picked.row, 0) for part in (~is_gradient, is_gradient))
        return jnp.stack([h, g], axis=1)

    def update(
        step: Any, picked: Picked, row: _Embedded, products: jax.Array
    ) -> _Embedded:
        del step
        distance = row.square + picked.state.square - 2 * products[0] * products[1]
        return row._replace(distance=jnp.clip(distance, 0, row.distance))

    squares = of_chunks(pool, square)
    own = pool.start + jnp.arange(pool.size)
    rows = _Embedded(jnp.full_like(squares, jnp.inf), squares, own)
    return Gain(
        jnp.int32(0), rows, value, directions, update, lambda step, picked: step + 1
    )
