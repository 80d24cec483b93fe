"""Compares the results of the other libraries in the benchmarks with fkjax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import per_example_peers, transformers
from benchmarks.peers import TorchResNet10, TorchTransformer
from benchmarks.workload import Workload
from fkjax.base import path_of
from fkjax.fisher import vectors as fisher
from fkjax.models import lenet, resnet10

PACKAGES = {
    "jax vmap(grad), dense": (),
    "jax-privacy, clipped sum, no projection": ("jax_privacy",),
    "opacus GradSampleModule, dense": ("torch", "opacus"),
    "backpack BatchGrad, dense": ("torch", "backpack"),
    "trak BasicProjector": ("torch", "trak"),
    "trak BasicProjector, one block": ("torch", "trak"),
}
RANK = 256


@pytest.fixture(scope="module")
def work():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 8).astype(np.int32)
    model = lenet((28, 28, 1), 10)
    variables = jax.jit(model.init)(jax.random.key(0))
    return Workload(model, variables, images, labels, "random")


@pytest.fixture(scope="module")
def exact(work):
    log_probs_fn, theta = fisher.of_parameters(work.model, work.variables)
    images, labels = jnp.asarray(work.images), jnp.asarray(work.labels)
    return jax.jit(
        lambda theta: fisher.fisher_vectors(log_probs_fn, theta, images, labels)
    )(theta)


@pytest.fixture(scope="module")
def peers(work):
    found = per_example_peers.contenders(
        work, work.images, work.labels, rank=RANK, chunk=4
    )
    return {peer.name: peer for peer in found}


@pytest.fixture(params=PACKAGES)
def peer(request, peers):
    for package in PACKAGES[request.param]:
        pytest.importorskip(
            package, reason=f"{package} is not installed", exc_type=ImportError
        )
    return peers[request.param]


def test_gradients_are_fisher_vectors(peer, exact):
    if peer.project is None:  # the library only returns the sum
        exact = jax.tree.map(lambda leaf: leaf.sum(0), exact)
    found = peer.gradients(8)
    assert jax.tree.structure(found) == jax.tree.structure(exact)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(abs(b).max()))


def test_the_timed_work_keeps_norms_and_angles(peer, exact):
    vectors = np.concatenate(
        [leaf.reshape(8, -1) for leaf in jax.tree.leaves(exact)], 1
    )
    norms = np.linalg.norm(vectors, axis=1)
    result = peer.run()
    if peer.project is None:
        np.testing.assert_allclose(result[1].grad_norms, norms, rtol=1e-4)
        return
    embeddings = peer.project(8)
    assert embeddings.shape == (8, RANK)
    np.testing.assert_allclose(embeddings, result, rtol=1e-4, atol=1e-4)
    error = (embeddings @ embeddings.T - vectors @ vectors.T) / np.outer(norms, norms)
    assert abs(error).max() < 6 * RANK**-0.5


def test_a_missing_package_is_left_out_and_said_once(capsys):
    per_example_peers._imports.cache_clear()
    for _ in range(2):
        assert not per_example_peers._imports("no_such_package")
    assert capsys.readouterr().err.count("left out: no_such_package") == 1


def test_the_residual_networks_gradients_are_fisher_vectors():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = resnet10((32, 32, 3), 10, width=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    variables = model.init(jax.random.key(0))
    log_probs_fn, theta = fisher.of_parameters(model, variables)
    images = jax.random.randint(jax.random.key(1), (2, 32, 32, 3), 0, 256, jnp.uint8)
    labels = jnp.array([3, 7])
    expected = fisher.fisher_vectors(log_probs_fn, theta, images, labels)
    x = (torch.tensor(np.asarray(images)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    found = TorchResNet10(torch, variables).gradients(x, torch.tensor([3, 7]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        gradient = found[path_of(path)].numpy()
        axes = {5: (0, 3, 4, 2, 1), 3: (0, 2, 1)}.get(leaf.ndim, range(leaf.ndim))
        scale = abs(leaf).max()
        np.testing.assert_allclose(gradient.transpose(axes), leaf, atol=1e-3 * scale)


@pytest.mark.parametrize("shape", transformers.SMOKE, ids=lambda shape: shape.name)
def test_gradients_of_transformers_are_those_of_fkjax(shape):
    torch = pytest.importorskip("torch")
    module, xs = transformers.Transformer(shape), transformers.examples(shape, 2)
    theta = transformers.parameters(module, xs)

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(module.apply({"params": theta}, x[None])[0])

    expected = fisher.fisher_vectors(log_probs_fn, theta, xs, jnp.array([2, 0]))
    peer = TorchTransformer(torch, theta, shape.heads)
    found = peer.gradients(torch.tensor(xs), torch.tensor([2, 0]))
    scale = max(abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        name = path_of(path)
        np.testing.assert_allclose(
            found[name].numpy(), leaf, atol=1e-4 * scale, err_msg=name
        )
