"""Pools of tokens, and of several arrays for each example."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fkjax
from fkjax.base import UserError
from fkjax.data import columns
from fkjax.fisher import vectors
from fkjax.models import as_images, from_module
from fkjax.parallel.examples import Streamed
from fkjax.selection.choose import choose, probabilities
from fkjax.selection.from_network import problem_of_network
from fkjax.sketch import embed, identity

RNG = np.random.default_rng(0)
N, M, LENGTH = 24, 8, 6
TOKENS = RNG.integers(0, 300, (N + M, LENGTH))  # int64, more than uint8 holds
MASK = RNG.random((N + M, LENGTH)) < 0.7
AGE = RNG.normal(size=N + M)
LABELS = np.arange(M) % 3


class Text(nnx.Module):
    """A network of tokens, and optionally of a mask and a number."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(300, 4, rngs=rngs)
        self.fc = nnx.Linear(4, 5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, tokens, mask=None, age=None):
        assert jnp.issubdtype(tokens.dtype, jnp.integer)
        assert mask is None or mask.dtype == bool
        x = self.embed(tokens)
        x = x if mask is None else jnp.where(mask[..., None], x, 0)
        x = nnx.relu(self.fc(x)).mean(1)
        return self.head(x if age is None else x * age[:, None])


def sets(images):
    """Returns a pool and a validation set of these arrays."""
    pool, known = (jax.tree.map(lambda x, p=p: x[p], images) for p in PARTS)
    return {"images": pool}, {"images": known, "labels": LABELS}


PARTS = slice(M, None), slice(0, M)
ALL = {"tokens": TOKENS, "mask": MASK, "age": AGE}


def test_tokens_stay_integers():
    pool, known = sets(TOKENS)
    problem = problem_of_network(pool, known, Text())
    assert problem.pool.dtype == jnp.int32 and problem.pool.shape == (N, 1, 1, LENGTH)
    assert problem.taps == ("fc",)


def test_several_arrays_are_passed_by_name(monkeypatch):
    """Each pick is a copy of the validation example that is wrong."""
    logits = np.asarray(Text()(*(jnp.asarray(x) for x in ALL.values())))
    wrong = (logits[:M].argmax(1) + 1) % 3
    pool, known = sets(ALL)
    pool["images"] = {
        k: np.concatenate([x, ALL[k][:M]]) for k, x in pool["images"].items()
    }
    known["labels"] = wrong
    problem = problem_of_network(pool, known, Text(), keep_copies=True)
    selection = choose(problem, budget=4)
    assert selection.is_mistake.all()
    np.testing.assert_array_equal(selection.indices, N + selection.targets)
    monkeypatch.setattr(columns, "_IN_MEMORY", 0)
    problem = problem_of_network(pool, known, Text(), keep_copies=True)
    assert isinstance(problem.pool, Streamed)
    expected = jax.nn.softmax(logits)[selection.targets]
    for found in (
        selection.probabilities,
        probabilities(problem, problem.pool[selection.indices]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_fisher_vectors_of_several_arrays_are_those_of_the_network():
    module = Text()
    xs = {
        "tokens": jnp.asarray(TOKENS[:4]),
        "mask": MASK[:4],
        "age": jnp.float32(AGE[:4]),
    }
    model, variables, _ = from_module(module, example=xs)
    log_probs_fn, theta = vectors.of_parameters(model, variables)
    graph, params = nnx.split(module)
    labels = jnp.arange(4) % 3

    def one(theta, x):
        x = jax.tree.map(lambda leaf: leaf[None], x)
        return jax.nn.log_softmax(nnx.merge(graph, nnx.State(theta))(**x)[0])

    @jax.jit
    def all_ways(theta):
        carried = jax.tree.map(jnp.asarray, as_images(xs))
        return [
            embed(fn, theta, examples, labels, identity(), {})
            for fn, examples in ((one, xs), (log_probs_fn, xs), (log_probs_fn, carried))
        ] + [vectors.fisher_vectors(one, theta, xs, labels)]

    first, *others, expected = all_ways(theta)
    leaves = [leaf.reshape(4, -1) for leaf in jax.tree.leaves(expected)]
    for found in (first, *others):
        np.testing.assert_allclose(
            found, np.concatenate(leaves, axis=1), rtol=1e-5, atol=1e-7
        )


Pair = collections.namedtuple("Pair", ["tokens", "mask"])


class Packed(Text):
    def __call__(self, batch):
        tokens, mask = batch
        return super().__call__(tokens, mask)


def test_a_named_tuple_is_one_argument():
    pool, known = sets(Pair(TOKENS, MASK))
    assert problem_of_network(pool, known, Packed()).taps == ("fc",)


class Correlation(nnx.Module):
    """A network of `lax`, which takes floats only, as integers were given before."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.kernel = nnx.Param(jax.random.normal(rngs(), (3, 3, 1, 4)))
        self.fc, self.head = (nnx.Linear(4, n, rngs=rngs) for n in (4, 3))

    def __call__(self, x):
        x = jax.lax.conv_general_dilated(
            x,
            self.kernel[...],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return self.head(self.fc(x).mean((1, 2)))


def test_integers_are_floats_for_a_network_that_takes_no_integers():
    images = RNG.integers(0, 300, (N + M, 4, 4, 1))
    problem = problem_of_network(*sets(images), Correlation())
    assert problem.pool.dtype == jnp.float32


def changed(**others):
    return {**ALL, **others}


MISTAKES = {
    "other arrays": (
        ({"images": TOKENS}, sets(ALL)[1]),
        r"shape \{'age': \(\), .*\}, as the validation set .* pool have \(6,\)",
    ),
    "lengths": (
        ({"images": changed(age=AGE[1:])}, sets(ALL)[1]),
        "same length, got 31, 32, 32",
    ),
    "text": (sets(changed(age=AGE.astype(str))), "must be numbers, got <U"),
    "nothing": (({"images": {}}, sets(ALL)[1]), "must be arrays, got none"),
    "large": (sets(TOKENS + 2**40), "beyond the range of int32, such as 10995"),
    "no such argument": (
        sets(changed(other=AGE)),
        r"cannot be called .* on a batch of \{age: float32\[2\], .* check the example",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_fit_is_refused(mistake):
    given, match = MISTAKES[mistake]
    with pytest.raises(UserError, match=match):
        problem_of_network(*given, Text())


@pytest.mark.parametrize("strategy", ["fisher_covariance", "vaal"])
@pytest.mark.parametrize("images", [TOKENS, ALL], ids=["tokens", "arrays"])
def test_strategies_of_pixels_refuse_other_examples(strategy, images):
    pool, known = sets(images)
    with pytest.raises(UserError, match=r"cannot use examples of int\d+, such as tok"):
        fkjax.select(pool, known, network=Text(), budget=3, strategy=strategy)
