"""The libraries that the benchmarks race against compute what fkjax computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import per_example_peers
from benchmarks.workload import Workload
from fkjax import fisher
from fkjax.base import log_probs
from fkjax.models import lenet

PACKAGES = {
    "jax vmap(grad), dense": "jax",
    "jax-privacy, clipped sum, no projection": "jax_privacy",
    "opacus GradSampleModule, dense": "opacus",
    "backpack BatchGrad, dense": "backpack",
    "trak BasicProjector, blocks of 100": "trak",
    "trak BasicProjector, blocks of 256": "trak",
}
RANK = 256


@pytest.fixture(scope="module")
def work():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 8).astype(np.int32)
    model = lenet((28, 28, 1), 10)
    return Workload(model, model.init(jax.random.key(0)), images, labels, "random")


@pytest.fixture(scope="module")
def exact(work):
    def log_probs_fn(theta, x):
        return log_probs(work.model, theta, x)

    images, labels = jnp.asarray(work.images), jnp.asarray(work.labels)
    return fisher.fisher_vectors(log_probs_fn, work.variables, images, labels)


@pytest.fixture(scope="module")
def peers(work):
    found = per_example_peers.contenders(
        work, work.images, work.labels, rank=RANK, chunk=4
    )
    return {peer.name: peer for peer in found}


@pytest.mark.parametrize("name", PACKAGES)
def test_gradients_are_fkjax_fisher_vectors(name, peers, exact):
    package = PACKAGES[name]
    pytest.importorskip(
        package, reason=f"{package} is not installed", exc_type=ImportError
    )
    peer = peers[name]
    found = peer.gradients(8)
    if peer.project is None:
        exact = jax.tree.map(lambda leaf: leaf.sum(0), exact)
    assert jax.tree.structure(found) == jax.tree.structure(exact)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(abs(b).max()))


@pytest.mark.parametrize("name", PACKAGES)
def test_projection_keeps_inner_products(name, peers, exact):
    peer = peers.get(name)
    if peer is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    result = jax.block_until_ready(peer.run())
    vectors = np.concatenate(
        [leaf.reshape(8, -1) for leaf in jax.tree.leaves(exact)], 1
    )
    norms = np.linalg.norm(vectors, axis=1)
    if peer.project is None:  # jax-privacy
        np.testing.assert_allclose(result[1].grad_norms, norms, rtol=1e-4)
        return
    embeddings = peer.project(8)
    np.testing.assert_allclose(embeddings, result, rtol=1e-4, atol=1e-4)
    assert embeddings.shape == (8, RANK)
    error = embeddings @ embeddings.T - vectors @ vectors.T
    assert abs(error / np.outer(norms, norms)).max() < 6 * RANK**-0.5


def test_a_missing_library_is_left_out_and_said_once(capsys):
    per_example_peers._import.cache_clear()
    for _ in range(2):
        assert per_example_peers._import("no_such_library") is None
    assert capsys.readouterr().err.count("no_such_library") == 2  # both in one line
