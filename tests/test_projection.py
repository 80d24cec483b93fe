"""Sketches against their explicit matrices, their moments and their neighbours."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from fkjax import projection
from fkjax.base import Factors, key_for
from fkjax.projection import project

SKETCHES = {
    "gaussian": projection.gaussian(rank=4),
    "rademacher": projection.rademacher(rank=4),
    "count_sketch": projection.count_sketch(rank=4),
    "count_sketch of 2": projection.count_sketch(rank=4, num_nonzeros=2),
    "balanced_fold": projection.balanced_fold(rank=4),
    "srht": projection.srht(rank=4),
    "kronecker": projection.kronecker(row_rank=2, column_rank=2),
    "khatri_rao": projection.khatri_rao(rank=4),
}
SHAPE = (2, 2, 3)  # as a convolution's kernel: a matrix [4, 3]

every_sketch = pytest.mark.parametrize(
    "sketch", [pytest.param(sketch, id=name) for name, sketch in SKETCHES.items()]
)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def example(vectors, i):
    return jax.tree.map(lambda v: v[i], vectors)


def matrix(sketch, shape, seed=0):
    """S [K, P], column by column."""
    state = sketch.init(jax.random.key(seed), shape)
    size = math.prod(shape)
    apply = jax.jit(sketch.apply)
    return np.stack([apply(state, e.reshape(shape)) for e in np.eye(size)], axis=1)


# Structure.


@every_sketch
@pytest.mark.parametrize("shape", [(), (7,), SHAPE])
def test_a_sketch_is_its_matrix(sketch, shape):
    x = draw(1, *shape)
    y = sketch.apply(sketch.init(jax.random.key(0), shape), x)
    assert y.shape == (sketch.rank,)
    np.testing.assert_allclose(y, matrix(sketch, shape) @ x.ravel(), atol=1e-5)


@pytest.mark.parametrize("num_nonzeros", [1, 2, 4])
def test_count_sketch_has_one_entry_a_column_and_block(num_nonzeros):
    sketch = projection.count_sketch(rank=8, num_nonzeros=num_nonzeros)
    s = matrix(sketch, (50,))
    magnitude = num_nonzeros**-0.5
    assert set(np.unique(s)) == {-np.float32(magnitude), 0, np.float32(magnitude)}
    blocks = s.reshape(num_nonzeros, -1, 50)
    assert ((blocks != 0).sum(axis=1) == 1).all()


def test_balanced_fold_has_one_sign_a_column_and_equal_rows():
    s = matrix(projection.balanced_fold(rank=8), (40,))
    assert set(np.unique(s)) == {-1, 0, 1}
    assert ((s != 0).sum(axis=0) == 1).all()
    assert ((s != 0).sum(axis=1) == 5).all()


def test_balanced_fold_keeps_a_small_leaf():
    s = matrix(projection.balanced_fold(rank=8), (5,))
    np.testing.assert_array_equal(s.T @ s, np.eye(5))


def test_srht_is_rows_of_a_hadamard_matrix():
    s = matrix(projection.srht(rank=8), (4, 8)) * np.sqrt(8)
    np.testing.assert_allclose(abs(s), 1, rtol=1e-6)
    np.testing.assert_allclose(s @ s.T, 32 * np.eye(8), atol=1e-4)


def test_srht_of_a_small_leaf_keeps_every_row():
    s = matrix(projection.srht(rank=8), (5,))
    np.testing.assert_allclose(s.T @ s, np.eye(5), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 16, 64, 2048])
def test_the_walsh_hadamard_transform_is_its_matrix(size):
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    x = draw(0, size)
    np.testing.assert_allclose(projection._walsh_hadamard(x), h @ x, atol=1e-3)


def test_kronecker_is_a_kronecker_product():
    sketch = SKETCHES["kronecker"]
    a, b = sketch.init(jax.random.key(0), SHAPE)
    np.testing.assert_allclose(matrix(sketch, SHAPE), np.kron(a.T, b.T), rtol=1e-6)


def test_khatri_rao_is_a_product_row_by_row():
    sketch = SKETCHES["khatri_rao"]
    u, v = sketch.init(jax.random.key(0), SHAPE)
    expected = [np.kron(u[:, r], v[:, r]) for r in range(4)]
    np.testing.assert_allclose(matrix(sketch, SHAPE), expected, rtol=1e-6)


@every_sketch
@settings(max_examples=20, deadline=None)
@given(scale=st.floats(-100, 100, width=32), seed=st.integers(0, 99))
def test_a_sketch_is_linear(sketch, scale, seed):
    state = sketch.init(jax.random.key(0), SHAPE)
    x, y = draw(seed, *SHAPE), draw(seed + 100, *SHAPE)
    np.testing.assert_allclose(
        sketch.apply(state, x + scale * y),
        sketch.apply(state, x) + scale * sketch.apply(state, y),
        atol=2e-5 * (1 + abs(scale)),
    )


# Moments.


def assert_moments(products, mean, variance):
    """That samples have this mean (3 standard errors) and variance (4)."""
    products = np.asarray(products, np.float64)
    n = len(products)
    assert abs(products.mean() - mean) <= 3 * np.sqrt(variance / n) + 1e-5
    deviations = (products - products.mean()) ** 2
    error = deviations.std() / np.sqrt(n)
    assert abs(deviations.mean() - variance) <= 4 * error + 1e-5


@every_sketch
@pytest.mark.parametrize("related", [0.5, 1.0])
def test_inner_products_have_the_stated_mean_and_variance(sketch, related):
    x = draw(3, *SHAPE)
    y = related * x + (1 - related) * draw(4, *SHAPE)

    def product(key):
        state = sketch.init(key, SHAPE)
        return jnp.vdot(sketch.apply(state, x), sketch.apply(state, y))

    products = jax.jit(jax.vmap(product))(jax.random.split(jax.random.key(5), 10_000))
    assert_moments(products, float(jnp.vdot(x, y)), float(sketch.variance(x, y)))


@every_sketch
def test_embeddings_have_a_round_second_moment(sketch):
    """E[(S x)(S y)^T] = <x, y> I / K, on which sums over leaves rely."""
    x = jnp.zeros(SHAPE).at[0, 0, 0].set(2.0).at[1, 1, 2].set(1.0)
    y = draw(6, *SHAPE)

    def outer(key):
        state = sketch.init(key, SHAPE)
        return jnp.outer(sketch.apply(state, x), sketch.apply(state, y))

    outers = jax.jit(jax.vmap(outer))(jax.random.split(jax.random.key(7), 10_000))
    error = outers.std(axis=0) / np.sqrt(len(outers))
    expected = jnp.vdot(x, y) * jnp.eye(sketch.rank) / sketch.rank
    assert (abs(outers.mean(axis=0) - expected) <= 4.5 * error).all()


def test_rank_one_leaves_have_the_kronecker_variance_of_the_docs():
    sketch = projection.kronecker(row_rank=3, column_rank=5)
    (a, a2), (d, d2) = draw(0, 2, 6), draw(1, 2, 4)
    v_a = projection.rademacher(rank=3).variance(a, a2)
    v_d = projection.rademacher(rank=5).variance(d, d2)
    aa, dd = jnp.vdot(a, a2), jnp.vdot(d, d2)
    np.testing.assert_allclose(
        sketch.variance(jnp.outer(a, d), jnp.outer(a2, d2)),
        (v_a + aa**2) * (v_d + dd**2) - (aa * dd) ** 2,
        rtol=1e-4,
    )


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


@every_sketch
@pytest.mark.parametrize("positions", [1, 5, 100])
def test_factors_give_the_sketch_of_their_product(sketch, positions):
    a, d = draw(0, positions, 4), draw(1, positions, 3)
    state = sketch.init(jax.random.key(0), SHAPE)
    np.testing.assert_allclose(
        sketch.apply_factors(state, a, d),
        sketch.apply(state, (a.T @ d).reshape(SHAPE)),
        rtol=1e-4,
        atol=1e-4,
    )


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
    check(jax.jit(batched)(state, vectors))
    for batch_size in (1, 4, 6):
        check(
            jax.lax.map(
                lambda v: projected.apply(state, v), vectors, batch_size=batch_size
            )
        )
    nested = jax.tree.map(lambda v: v.reshape(2, 3, *v.shape[1:]), vectors)
    check(jax.vmap(batched, (None, 0))(state, nested).reshape(6, -1))
    states = jax.tree.map(lambda s: jnp.stack([s] * 6), state)
    check(jax.vmap(projected.apply)(states, vectors))
    np.testing.assert_allclose(
        jax.vmap(projected.apply, (0, None))(states, example(vectors, 0)),
        np.stack([expected[0]] * 6),
        rtol=1e-5,
        atol=1e-5,
    )


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def scatters(sketch):
    state = sketch.init(jax.random.key(0), (40,))
    traced = jax.jit(jax.vmap(sketch.apply, (None, 0))).trace(state, jnp.ones((6, 40)))
    return [
        equation.invars[2].aval.shape
        for equation in primitives(traced.jaxpr.jaxpr)
        if "scatter" in equation.primitive.name
    ]


def test_count_sketch_scatters_rows_of_examples():
    assert scatters(SKETCHES["count_sketch"]) == [(40, 6)]


def test_balanced_fold_scatters_nothing():
    assert scatters(SKETCHES["balanced_fold"]) == []


@pytest.mark.parametrize("name", ["gaussian", "balanced_fold", "srht", "khatri_rao"])
def test_a_sketch_can_be_differentiated(name):
    """Its transpose is S^T, for one example and for a batch."""
    sketch = SKETCHES[name]
    state = sketch.init(jax.random.key(0), SHAPE)
    xs, weights = draw(0, 5, *SHAPE), draw(1, 4)
    gradient = jax.grad(lambda x: jnp.vdot(weights, sketch.apply(state, x)))
    expected = (matrix(sketch, SHAPE).T @ weights).reshape(SHAPE)
    np.testing.assert_allclose(gradient(xs[0]), expected, atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(gradient)(xs), np.stack([expected] * 5), atol=1e-5
    )


@every_sketch
def test_embeddings_are_float32(sketch):
    state = sketch.init(jax.random.key(0), SHAPE)
    x = draw(0, *SHAPE).astype(jnp.bfloat16)
    y = sketch.apply(state, x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, sketch.apply(state, x.astype(jnp.float32)))


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


@pytest.mark.parametrize(
    "factory",
    [
        projection.gaussian,
        projection.rademacher,
        projection.count_sketch,
        projection.balanced_fold,
        projection.srht,
        projection.khatri_rao,
    ],
)
@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_must_be_positive(factory, rank):
    with pytest.raises(ValueError, match=f"rank must be 1 or more, got {rank}"):
        factory(rank=rank)


def test_both_ranks_of_kronecker_must_be_positive():
    with pytest.raises(ValueError, match="column_rank must be 1 or more, got 0"):
        projection.kronecker(row_rank=3, column_rank=0)
    with pytest.raises(ValueError, match="row_rank must be 1 or more, got 0"):
        projection.kronecker(row_rank=0, column_rank=3)


@pytest.mark.parametrize("num_nonzeros", [3, 16])
def test_nonzeros_must_divide_the_rank(num_nonzeros):
    with pytest.raises(ValueError, match=f"rank 8 and num_nonzeros {num_nonzeros}"):
        projection.count_sketch(rank=8, num_nonzeros=num_nonzeros)


def test_nonzeros_must_be_positive():
    with pytest.raises(ValueError, match="num_nonzeros must be 1 or more"):
        projection.count_sketch(rank=8, num_nonzeros=0)


def test_sketches_that_are_added_must_agree_in_rank():
    with pytest.raises(ValueError, match="all of one rank"):
        project({"a": projection.srht(rank=4), "b": projection.srht(rank=8)})
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


@every_sketch
def test_a_leaf_must_have_the_size_that_was_drawn_for(sketch):
    state = sketch.init(jax.random.key(0), SHAPE)
    with pytest.raises(AssertionError):
        sketch.apply(state, jnp.ones((2, 2, 4)))


def test_there_must_be_room_for_every_validation_vector():
    with pytest.raises(ValueError, match="1 to 4 validation examples"):
        projection.validation_span({"w": jnp.ones((5, 3))}, rank=4)
    with pytest.raises(ValueError, match=r"got lengths \[2, 3\]"):
        projection.validation_span({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, rank=4)


def test_pool_vectors_must_be_shaped_as_validation_vectors():
    projected = projection.validation_span({"w": jnp.ones((2, 3))}, rank=4)
    with pytest.raises(ValueError, match="pool vectors"):
        projected.init(jax.random.key(0), {"w": jnp.ones((2, 3))})
