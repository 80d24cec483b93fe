"""Second calls of public functions compile nothing, outside of `jit`, too."""

import flax.linen as nn
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fkjax.acquisition.matching import farthest_first, match, rank_major_merge
from fkjax.acquisition.neighbors import top_k_streamed
from fkjax.base import Model, Variables
from fkjax.fisher import (
    Factors,
    convolution_gram,
    fisher_vectors,
    metric,
    of_parameters,
    product_gram,
)
from fkjax.fisher.gram import gram
from fkjax.selection.select import select
from fkjax.sketch import (
    count_sketch,
    embed,
    embed_all_classes,
    fisher_sketch,
    predicted,
    project,
    sampled,
)

compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: (
        compiled.append(event) if "backend_compile" in event else None
    )
)
KEY, NUM = jax.random.key(0), 70
XS = jax.random.normal(KEY, (NUM, 6))
IMAGES = np.asarray(XS)
LABELS = np.arange(NUM) % 4
MODEL = Model(
    lambda key: None,
    lambda v, x, tap=None: (
        x.reshape(len(x), 6) @ v.parameters["w"] + v.statistics[None]
    ),
    (),
    "w",
    (1, 1, 6),
    4,
)


def log_probs_fn(theta, x):
    return jax.nn.log_softmax(x @ theta["w"])


def variables(i):
    return Variables({"w": jnp.full((6, 4), 1.0 + i)}, jnp.full(4, i, jnp.float32))


THETA = variables(0).parameters
PROJECTION = project(count_sketch(rank=8))
STATE = PROJECTION.init(KEY, THETA)
SKETCH = fisher_sketch(log_probs_fn, THETA, XS[0], rank=8)
CONVOLUTION = Factors(XS.reshape(14, 5, 6), XS.reshape(14, 5, 6))
DENSE = Factors(XS[:14], XS[:14])
LAYERS = {"c": CONVOLUTION, "d": DENSE}
IS_ANY = jnp.ones(NUM, bool)


def of_a_model(i, **options):
    """A new function for new variables, as after each round of training."""
    fn, theta = of_parameters(MODEL, variables(i), **options)
    return embed(fn, theta, XS[:, None, None], predicted, PROJECTION, STATE)


def fitted(make):
    made = make(damping=1.0)
    return made.whiten(made.fit(LAYERS), LAYERS)


NNX = nnx.Sequential(
    *(nnx.Linear(6, 8, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))),
    *(nnx.relu, nnx.Linear(8, 4, rngs=nnx.Rngs(2))),
)
LINEN = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(4)])


def selected(network, variables=None, **data):
    pool = {name: rows[20:] for name, rows in data.items()}
    validation = {name: rows[:20] for name, rows in data.items()}
    validation["labels"] = LABELS[:20]
    return select(pool, validation, network=network, variables=variables, budget=3)


def of_nnx(i):
    """The same module after its weights have been trained."""
    NNX.layers[0].kernel[...] = jnp.full((6, 8), 0.1 + i)
    return selected(NNX, images=IMAGES)


CALLS = {
    "embed": lambda i: embed(log_probs_fn, THETA, XS, predicted, PROJECTION, STATE),
    "embed, other labels": lambda i: embed(
        log_probs_fn, THETA, XS, LABELS * i, PROJECTION, STATE, start=i
    ),
    "embed, sampled": lambda i: embed(
        log_probs_fn, THETA, XS, sampled(jax.random.key(i)), PROJECTION, STATE
    ),
    "embed, another round": of_a_model,
    "embed, another round, by name": lambda i: of_a_model(i, names=["w"]),
    "embed_all_classes": lambda i: embed_all_classes(
        log_probs_fn, THETA, XS, PROJECTION, STATE
    ),
    "fisher_sketch": lambda i: SKETCH.apply(SKETCH.init(KEY), THETA, XS),
    "fisher_vectors": lambda i: fisher_vectors(log_probs_fn, THETA, XS, LABELS),
    "gram": lambda i: gram(LAYERS, LAYERS, has_bias=True),
    "gram in chunks": lambda i: gram(LAYERS, LAYERS, has_bias=True, chunk_size=4),
    "convolution_gram": lambda i: convolution_gram(
        *CONVOLUTION, *CONVOLUTION, has_bias=False
    ),
    "product_gram": lambda i: product_gram(*DENSE, *DENSE, has_bias=True),
    "kfac": lambda i: fitted(metric.kfac),
    "eigenvalue_corrected": lambda i: fitted(metric.eigenvalue_corrected),
    "diagonal": lambda i: fitted(metric.diagonal),
    "low_rank": lambda i: metric.low_rank(damping=1.0).fit(XS),
    "top_k_streamed": lambda i: top_k_streamed(XS, XS, k=3),
    "match": lambda i: match(KEY, XS, IS_ANY, XS[:9], IS_ANY[:9], budget=5),
    "farthest_first": lambda i: farthest_first(KEY, XS, IS_ANY, num_centers=3),
    "rank_major_merge": lambda i: rank_major_merge(
        KEY, jnp.arange(6).reshape(2, 3), jnp.ones((2, 3)), IS_ANY, budget=4
    ),
    "select, NNX": of_nnx,
    "select, Linen": lambda i: selected(
        LINEN, LINEN.init(jax.random.key(i), IMAGES), images=IMAGES
    ),
    "select, outputs": lambda i: selected(
        None, features=IMAGES, logits=IMAGES[:, :4] + i
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_compiled_twice(name):
    jax.block_until_ready(jax.tree.leaves(CALLS[name](0)))
    before = len(compiled)
    CALLS[name](1)
    assert compiled[before:] == []


def test_it_counts_compilations():
    before = len(compiled)
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(3))
    assert len(compiled) > before
