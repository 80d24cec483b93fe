"""What several devices compute together is what one computes alone.

Each test runs in a process of its own, whose CPU is made to look like two devices. The
models have convolutions, whose per-example gradients went wrong when the compiler chose
the sharding, and were summed over devices when `shard_map` checked replication.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = """
import jax, jax.numpy as jnp, numpy as np
from fkjax import fisher
from fkjax.distributed import device_mesh, map_shares
from fkjax.embedding import embed, predicted, sampled
from fkjax.models import lenet, resnet10
from fkjax.planner import auto
from fkjax.projection import project
from fkjax.pseudo_label import argmax

mesh = device_mesh()
assert mesh.size == 2
lenet = lenet((16, 16, 1), 10)
narrow = resnet10((16, 16, 1), 10, width=4, mean=(0.5,), std=(0.25,))

def world(model):
    images = jax.random.randint(
        jax.random.key(1), (7, *model.image_shape), 0, 256, jnp.uint8
    )
    return model.init(jax.random.key(0)), images

def check(fn, shared, examples):
    expected = jax.jit(lambda s, x: fn(s, x, 0))(shared, examples)
    found = jax.jit(lambda s, x: map_shares(fn, s, x, mesh=mesh))(shared, examples)
    assert max(abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
"""

EMBEDDED = """
for model, rule in ((lenet, predicted), (narrow, sampled(jax.random.key(3)))):
    variables, images = world(model)
    log_probs_fn, theta = fisher.of_parameters(model, variables)
    projection = project(auto(log_probs_fn, theta, images[0], rank=32).sketches)
    state = projection.init(jax.random.key(2), theta)
    def fn(shared, images, start):
        theta, state = shared
        return embed(
            log_probs_fn, theta, images, rule, projection, state,
            batch_size=2, start=start,
        )
    check(fn, (theta, state), images)
"""

DESCRIPTORS = """
for model, taps in ((lenet, ("conv1", "conv2", "fc1")), (narrow, ("stage1", "pool"))):
    variables, images = world(model)
    def fn(variables, images, start):
        def one(image):
            d = fisher.descriptor(model, variables, image, argmax(), taps=taps)
            return d.z, d.g
        return jax.vmap(one)(images)
    check(fn, variables, images)
"""

VECTORS = """
variables, images = world(narrow)
log_probs_fn, theta = fisher.of_parameters(narrow, variables)
def fn(theta, examples, start):
    return fisher.fisher_vectors(log_probs_fn, theta, *examples)
check(fn, theta, (images, jnp.arange(7) % 10))
check(fn, theta, (images[:6], jnp.arange(6) % 10))
"""


@pytest.mark.parametrize(
    "program", [EMBEDDED, DESCRIPTORS, VECTORS], ids=["embed", "descriptor", "vectors"]
)
def test_two_devices_give_what_one_gives(program):
    flags = os.environ.get("XLA_FLAGS", "")
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ
        | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=2"},
    )
    assert result.returncode == 0, result.stderr
