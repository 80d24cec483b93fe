"""Projections of whole vectors: sums of sketches, seeds, batches, exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import key_for
from fkjax.fisher.factors import Factors
from fkjax.sketch import projection
from fkjax.sketch.projection import project
from fkjax.sketch.unstructured import srht
from tests.sketches import SKETCHES, assert_moments, draw, every_sketch, example


def test_a_mixed_projection_has_the_stated_mean_and_variance():
    """Each leaf has its mass on its first value, where srht would err unsigned."""
    shapes = dict.fromkeys(["a", "b", "c", "d", "e"], (2, 3))
    x, y = ({n: draw(i + j, 2, 3) for i, n in enumerate(shapes)} for j in (10, 20))
    x, y = (jax.tree.map(lambda v: v.at[0, 0].set(4.0), tree) for tree in (x, y))
    kinds = ["srht", "srht", "balanced_fold", "khatri_rao", "count_sketch"]
    projected = project(
        {name: SKETCHES[kind] for name, kind in zip(shapes, kinds, strict=True)}
    )

    def product(key):
        state = projected.init(key, x)
        return jnp.vdot(projected.apply(state, x), projected.apply(state, y))

    products = jax.jit(jax.vmap(product))(jax.random.split(jax.random.key(8), 10_000))
    mean = sum(float(jnp.vdot(x[name], y[name])) for name in shapes)
    assert_moments(products, mean, float(projected.variance(x, y)))


# Factors.


def test_a_leaf_may_be_given_as_factors():
    vector = {"a": draw(0, 4, 3), "b": draw(1, 3)}
    factors = Factors(draw(2, 2, 4), draw(3, 2, 3))
    dense = {**vector, "a": factors.a.T @ factors.d}
    for projected in (
        project(SKETCHES["khatri_rao"]),
        project(SKETCHES["count_sketch"]),
        projection.identity(),
        projection.validation_span(
            jax.tree.map(lambda v: jnp.stack([v, -v, v**2]), vector), rank=3
        ),
    ):
        state = projected.init(jax.random.key(0), vector)
        np.testing.assert_allclose(
            projected.apply(state, {**vector, "a": factors}),
            projected.apply(state, dense),
            rtol=1e-5,
            atol=1e-5,
        )


# Seeds.


@every_sketch
def test_a_leafs_contribution_depends_on_its_path_alone(sketch):
    key, w = jax.random.key(0), draw(0, 4, 3)
    projected = project(sketch)
    alone = projected.apply(
        projected.init(key, {"layer": {"w": w}}), {"layer": {"w": w}}
    )
    zero = jnp.zeros((2, 2))
    for others in ({"a": zero}, {"z": [zero, zero]}, {"a": zero, "layer2": zero}):
        vector = {**others, "layer": {"b": zero, "w": w}}
        np.testing.assert_array_equal(
            projected.apply(projected.init(key, vector), vector), alone
        )
    own = sketch.init(key_for(key, "projection layer/w"), w.shape)
    np.testing.assert_array_equal(sketch.apply(own, w), alone)


@every_sketch
def test_leaves_are_sketched_independently(sketch):
    vector = {"a": jnp.ones((4, 3)), "b": jnp.ones((4, 3))}
    projected = project(sketch)
    states = [projected.init(jax.random.key(seed), vector) for seed in (0, 0, 1)]
    draws = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state[path])])
        for state in states
        for path in ("a", "b")
    ]
    assert (draws[0] != draws[1]).any()
    np.testing.assert_array_equal(draws[0], draws[2])
    assert (draws[0] != draws[4]).any()


def test_leaves_may_have_sketches_of_their_own():
    vector = {"a": {"w": draw(0, 4, 3)}, "b": [draw(1, 3)]}
    sketches = {"a/w": SKETCHES["kronecker"], "b/0": SKETCHES["balanced_fold"]}
    projected = project(sketches)
    state = projected.init(jax.random.key(0), vector)
    expected = sketches["a/w"].apply(state["a/w"], vector["a"]["w"])
    expected += sketches["b/0"].apply(state["b/0"], vector["b"][0])
    np.testing.assert_array_equal(projected.apply(state, vector), expected)


def test_shapes_are_enough_to_draw():
    vector = {"w": draw(0, 4, 3)}
    projected = project(SKETCHES["srht"])
    shapes = jax.eval_shape(lambda: vector)
    jax.tree.map(
        np.testing.assert_array_equal,
        projected.init(jax.random.key(0), shapes),
        projected.init(jax.random.key(0), vector),
    )


# Batches.


@every_sketch
def test_batches_are_examples_one_by_one(sketch):
    vectors = {"w": draw(0, 6, 4, 3), "b": draw(1, 6, 3)}
    projected = project(sketch)
    state = projected.init(jax.random.key(0), example(vectors, 0))
    expected = np.stack([projected.apply(state, example(vectors, i)) for i in range(6)])

    def check(embeddings):
        np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-5)

    batched = jax.vmap(projected.apply, (None, 0))
    check(batched(state, vectors))

    @jax.jit
    def every_way(state, vectors):
        def apply(vector):
            return projected.apply(state, vector)

        in_loops = [jax.lax.map(apply, vectors, batch_size=n) for n in (1, 4, 6)]
        nested = jax.tree.map(lambda v: v.reshape(2, 3, *v.shape[1:]), vectors)
        nested = jax.vmap(batched, (None, 0))(state, nested).reshape(6, -1)
        states = jax.tree.map(lambda s: jnp.stack([s] * 6), state)
        with_states = jax.vmap(projected.apply)(states, vectors)
        of_one = jax.vmap(projected.apply, (0, None))(states, example(vectors, 0))
        return [batched(state, vectors), *in_loops, nested, with_states], of_one

    ways, of_one = every_way(state, vectors)
    for embeddings in ways:
        check(embeddings)
    np.testing.assert_allclose(
        of_one, np.stack([expected[0]] * 6), rtol=1e-5, atol=1e-5
    )


# Exact projections.


def test_identity_keeps_everything():
    x, y = ({"b": draw(s, 3), "a": draw(s + 1, 2, 3)} for s in (0, 2))
    identity = projection.identity()
    state = identity.init(jax.random.key(0), x)
    np.testing.assert_array_equal(
        identity.apply(state, x), np.concatenate([x["a"].ravel(), x["b"]])
    )
    np.testing.assert_allclose(
        jnp.vdot(identity.apply(state, x), identity.apply(state, y)),
        jnp.vdot(x["a"], y["a"]) + jnp.vdot(x["b"], y["b"]),
        rtol=1e-5,
    )
    assert identity.variance(x, y) == 0


@pytest.mark.parametrize("size", [(4, 5), (1, 2)], ids=["M < P", "M > P"])
def test_validation_span_is_exact_against_validation(size):
    m, n, rank = 7, 11, 9
    validation = {"a": draw(0, m, *size), "b": draw(1, m, 3)}
    # Vectors that repeat, nearly repeat, and vanish.
    validation = jax.tree.map(
        lambda v: v.at[1].set(v[0]).at[2].set(v[0] * 1.0001).at[3].set(0), validation
    )
    pool = {"a": draw(2, n, *size), "b": draw(3, n, 3)}
    projected = projection.validation_span(validation, rank=rank)
    state = projected.init(jax.random.key(0), example(pool, 0))
    embed = jax.jit(jax.vmap(projected.apply, (None, 0)))
    x, v = embed(state, pool), embed(state, validation)
    assert x.shape == (n, rank)
    expected = sum(
        pool[name].reshape(n, -1) @ validation[name].reshape(m, -1).T for name in pool
    )
    np.testing.assert_allclose(x @ v.T, expected, atol=2e-5)
    assert projected.variance(example(pool, 0), example(pool, 1)) == 0


def test_validation_span_can_be_made_inside_jit():
    validation, x = {"w": draw(0, 3, 6)}, {"w": draw(1, 6)}

    @jax.jit
    def products(validation, x):
        projected = projection.validation_span(validation, rank=4)
        state = projected.init(jax.random.key(0), x)
        embed = jax.vmap(projected.apply, (None, 0))
        return embed(state, validation) @ projected.apply(state, x)

    np.testing.assert_allclose(
        products(validation, x), validation["w"] @ x["w"], atol=1e-5
    )


# Errors.


def test_sketches_that_are_added_must_agree_in_rank():
    with pytest.raises(ValueError, match="all of one rank"):
        project({"a": srht(rank=4), "b": srht(rank=8)})
    with pytest.raises(ValueError, match="all of one rank"):
        project({})


def test_sketches_must_be_for_the_vectors_leaves():
    projected = project({"a": SKETCHES["srht"], "x": SKETCHES["srht"]})
    with pytest.raises(ValueError, match=r"\['a', 'b'\].*\['a', 'x'\]"):
        projected.init(jax.random.key(0), {"a": jnp.ones(3), "b": jnp.ones(3)})


def test_a_vector_must_have_the_leaves_that_were_drawn_for():
    projected = project(SKETCHES["srht"])
    state = projected.init(jax.random.key(0), {"a": jnp.ones(3), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match="made for leaves"):
        projected.apply(state, {"a": jnp.ones(3)})


def test_there_must_be_room_for_every_validation_vector():
    with pytest.raises(ValueError, match="1 to 4 validation examples"):
        projection.validation_span({"w": jnp.ones((5, 3))}, rank=4)
    with pytest.raises(ValueError, match=r"got lengths \[2, 3\]"):
        projection.validation_span({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, rank=4)


def test_pool_vectors_must_be_shaped_as_validation_vectors():
    projected = projection.validation_span({"w": jnp.ones((2, 3))}, rank=4)
    with pytest.raises(ValueError, match="pool vectors"):
        projected.init(jax.random.key(0), {"w": jnp.ones((2, 3))})
