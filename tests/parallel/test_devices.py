"""What several devices compute together is what one computes alone.

Each test runs in a process of its own, whose CPU is made to look like several devices.
The models have convolutions, whose per-example gradients went wrong when the compiler
chose the sharding, and were summed over devices when `shard_map` checked replication.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREAMBLE = """
import jax, jax.numpy as jnp, numpy as np
from fkjax import fisher
from fkjax.parallel.devices import device_mesh, map_shares
from fkjax.sketch.embedding import embed, predicted, sampled
from fkjax.models import lenet, resnet10
from fkjax.sketch.planner import auto
from fkjax.sketch.projection import project
from fkjax.acquisition.pseudo_label import argmax

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


ROUNDS = """
import jax, jax.numpy as jnp, numpy as np
from fkjax import pool as pools
from fkjax.acquisition.fisher_kernel import fisher_nearest
from fkjax.parallel.devices import on_all_devices, shard
from fkjax.experiment.rounds import Arrays, RoundState, make_driver, play
from fkjax.parallel.examples import stream
from fkjax.models import lenet
from fkjax.experiment.oracle import array_oracle
from fkjax.training.fit import Schedule

PIXELS = np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 1), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 1200)
PARTS = np.split(np.random.default_rng(2).permutation(1200), [670, 891, 960])
STREAM = stream(lambda ids, then: PIXELS[ids], len(PIXELS), PIXELS.shape[1:])
model = lenet((8, 8, 1), 3)
variables = jax.jit(model.init)(jax.random.key(0))

def rounds(images, put, compiled):
    labels = [jnp.asarray(LABELS[part]) for part in PARTS]
    arrays = Arrays(*(put(images[part]) for part in PARTS), *labels[1:])
    driver = make_driver(
        model, schedule=Schedule(epochs=2, batch_size=90), capacity=40,
        selects_epoch=True, trains_on_validation=True, compiled=compiled,
    )
    strategy = fisher_nearest(model, taps=("conv2", "fc1"), budget=20)
    strategy = strategy._replace(query=compiled(strategy.query))
    state = RoundState(jax.random.key(1), pools.create(len(labels[0])), variables)
    records = play(
        driver, strategy, state, arrays, array_oracle(LABELS[PARTS[0]]),
        num_rounds=2, hidden_labels=None,
    )
    return [r._replace(seconds={}, peak_memory_mb={}) for _, r in records]

def sharded(images, num_devices):
    mesh = jax.make_mesh(
        (num_devices,), ("examples",), (jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )
    return rounds(
        images, lambda part: shard(part, mesh), lambda fn: on_all_devices(fn, mesh)
    )

expected = rounds(PIXELS, jnp.asarray, jax.jit)
assert (expected[0].query.targets >= 0).all()
for found in (sharded(PIXELS, 4), sharded(STREAM, 2)):
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
"""

READING = """
import jax, jax.numpy as jnp, numpy as np
from fkjax.parallel.devices import device_mesh, on_all_devices, shard
from fkjax.parallel.examples import stream, take
from fkjax.parallel.mapping import map_examples

pixels = np.random.default_rng(0).integers(0, 256, (3500, 2, 2, 1), np.uint8)
asked = []
def fetch(ids, then):
    asked.append(ids)
    return pixels[ids]
streamed = stream(fetch, 4000, (2, 2, 1))[np.arange(3500)]
rows = np.array([3499, 0, 1799, 1800, 0])
mesh = device_mesh()
on_all = lambda fn: on_all_devices(fn, mesh)
for images in (pixels, streamed):
    images = shard(images, mesh)
    assert images.shape == (3500, 2, 2, 1)
    (leaf,) = jax.tree.leaves(images)
    assert {len(part.data) for part in leaf.addressable_shards} == {1800}
    taken = on_all(lambda images, rows: take(images, rows, rows))(images, rows)
    np.testing.assert_array_equal(taken, pixels[rows], strict=True)
    part = on_all(lambda images, rows: take(images[rows][1:], jnp.array([3, 0])))
    np.testing.assert_array_equal(part(images, rows), pixels[[0, 0]])
    asked.clear()
    # Of whole batches each device maps its own; others, all map together.
    for size, is_own in ((100, True), (300, True), (77, False), (5000, False)):
        asked.clear()
        def fn(images, weights):
            return map_examples(
                lambda x, w: x.sum() * w, images, weights, batch_size=size
            )
        found = on_all(fn)(images, jnp.arange(3500))
        expected = pixels.sum((1, 2, 3), dtype=np.int32) * np.arange(3500)
        np.testing.assert_array_equal(found, expected)
        if asked and is_own:
            first = [ids for ids in asked if ids.max() < 1800]
            second = [ids for ids in asked if ids.min() >= 1800]
            assert len(first) == len(second) == len(asked) / 2
"""


@pytest.mark.parametrize(
    ("program", "num_devices"), [(ROUNDS, 4), (READING, 2)], ids=["rounds", "reading"]
)
def test_sharded_images_give_what_all_in_one_place_give(program, num_devices):
    run(program, num_devices)


@pytest.mark.parametrize(
    "program", [EMBEDDED, DESCRIPTORS, VECTORS], ids=["embed", "descriptor", "vectors"]
)
def test_two_devices_give_what_one_gives(program):
    run(PREAMBLE + program, 2)


def run(program, num_devices):
    flags = os.environ.get("XLA_FLAGS", "")
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": f"{flags} {devices}"},
    )
    assert result.returncode == 0, result.stderr
