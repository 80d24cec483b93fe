"""Checks on a CPU that looks like four devices: `python -m tests.parallel.on_devices`.

Run by `test_devices.py`, in one process for all of them, which prints as JSON what each
check raised. The models have convolutions, whose per-example gradients went wrong when
the compiler chose the sharding, and were summed over devices when `shard_map` checked
replication.
"""

import json
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from fkjax.acquisition import STRATEGIES, Settings, make_strategy
from fkjax.acquisition.fisher_kernel import fisher_nearest
from fkjax.acquisition.matching import match_rows
from fkjax.acquisition.pseudo_label import argmax
from fkjax.experiment import pool as pools
from fkjax.experiment.driver import Arrays, RoundState, make_driver
from fkjax.experiment.held_out import CorrectionRule
from fkjax.experiment.oracle import array_oracle
from fkjax.experiment.rounds import play
from fkjax.fisher import capture
from fkjax.fisher import vectors as fisher
from fkjax.fisher.descriptors import descriptor
from fkjax.models import from_nnx, resnet10
from fkjax.models.convolution import conv_valid
from fkjax.parallel.devices import device_mesh, map_shares, on_all_devices, shard
from fkjax.parallel.examples import stream, take
from fkjax.parallel.mapping import map_examples, map_rows
from fkjax.sketch.embedding import embed, predicted, sampled
from fkjax.sketch.planner import auto
from fkjax.sketch.projection import project
from fkjax.training.fit import Schedule
from tests.acquisition import outputs
from tests.parallel.test_examples import dense
from tests.tiny import TAPS, tiny

CHECKS = {}


def mesh_of(num_devices):
    return jax.make_mesh(
        (num_devices,),
        ("examples",),
        (jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )


def check(*names, **options):
    def add(fn):
        for name in names:
            CHECKS[name] = lambda name=name: fn(name, **options)
        return fn

    return add


class Residual(nnx.Module):
    """A strided and a plain convolution of lax, batch norms and a shortcut."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.conv = nnx.Conv(4, 4, (3, 3), use_bias=False, rngs=rngs)
        self.head = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x, tap, mask=None):
        x = nnx.relu(self.norm(self.stem(x)))
        x = tap("block", nnx.relu(x + self.conv(x)))
        return tap("logits", self.head(tap("pool", x.mean((1, 2)))))


def model_of(kind):
    """(model, taps)"""
    if kind == "tiny":
        return tiny((8, 8, 1), 10), TAPS
    scale = {"mean": (0.5,), "std": (0.25,)}
    if kind == "resnet":
        model = resnet10((16, 16, 1), 10, width=4, **scale)
        return model, ("stage1", "pool")
    model = from_nnx(
        Residual,
        taps=("block", "pool", "logits"),
        head="head",
        image_shape=(8, 8, 1),
        num_classes=10,
        **scale,
    )
    return model, ("block", "pool")


def world(model):
    images = jax.random.randint(
        jax.random.key(1), (7, *model.image_shape), 0, 256, jnp.uint8
    )
    return jax.jit(model.init)(jax.random.key(0)), images


def agree(fn, shared, examples):
    """On two devices and on one."""
    mesh = mesh_of(2)
    expected = jax.jit(lambda s, x: fn(s, x, 0))(shared, examples)
    found = jax.jit(lambda s, x: map_shares(fn, s, x, mesh=mesh))(shared, examples)
    assert max(abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@check("embed tiny", "embed residual", "embed resnet")
def embedded(name):
    model, _ = model_of(name.split()[1])
    rule = predicted if name == "embed tiny" else sampled(jax.random.key(3))
    variables, images = world(model)
    log_probs_fn, theta = fisher.of_parameters(model, variables)
    projection = project(auto(log_probs_fn, theta, images[0], rank=32).sketches)
    state = jax.jit(lambda: projection.init(jax.random.key(2), theta))()

    def fn(shared, images, start):
        theta, state = shared
        return embed(
            log_probs_fn,
            theta,
            images,
            rule,
            projection,
            state,
            batch_size=2,
            start=start,
        )

    agree(fn, (theta, state), images)


@check("descriptors tiny", "descriptors residual", "descriptors resnet")
def descriptors(name):
    model, taps = model_of(name.split()[1])
    variables, images = world(model)

    def fn(variables, images, start):
        def one(image):
            d = descriptor(model, variables, image, argmax(), taps=taps)
            return d.z, d.g

        return jax.vmap(one)(images)

    agree(fn, variables, images)


@check("vectors residual", "vectors resnet")
def fisher_vectors(name):
    model, _ = model_of(name.split()[1])
    variables, images = world(model)
    log_probs_fn, theta = fisher.of_parameters(model, variables)

    def fn(theta, examples, start):
        return fisher.fisher_vectors(log_probs_fn, theta, *examples)

    agree(fn, theta, (images, jnp.arange(7) % 10))
    agree(fn, theta, (images[:6], jnp.arange(6) % 10))


@check("captured factors")
def factors(name):
    """A zero that is the same on all devices would have the sum as its gradient."""

    def log_probs_fn(theta, x):
        y = jnp.tanh(conv_valid(x[None], theta["k"])).reshape(-1)
        return jax.nn.log_softmax(y @ theta["w"] + theta["b"])

    keys = jax.random.split(jax.random.key(0), 4)
    theta = {
        "k": jax.random.normal(keys[0], (3, 3, 2, 4)),
        "w": jax.random.normal(keys[1], (64, 3)),
        "b": jax.random.normal(keys[2], (3,)),
    }
    xs, labels = jax.random.normal(keys[3], (4, 6, 6, 2)), jnp.arange(4) % 3

    def many(theta, xs, labels):
        def one(x, label):
            plan = capture.plan(log_probs_fn, theta, x)
            captured = capture.capture(log_probs_fn, theta, x, label)
            return capture.gradient(plan, captured)

        return jax.vmap(one)(xs, labels)

    def local(theta, xs, labels):
        theta = jax.lax.pcast(theta, "b", to="varying")
        return many(theta, xs, labels)

    P = PartitionSpec
    mesh = jax.make_mesh(
        (2,),
        ("b",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:2],
    )
    sharded = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("b"), P("b")), out_specs=P("b")
        )
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        sharded(theta, xs, labels),
        jax.jit(many)(theta, xs, labels),
    )


@check("rounds streamed on two", "rounds in memory on four")
def rounds(name):
    """Sharded images give what all in one place give, bit for bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 1), np.uint8)
    known = np.random.default_rng(1).integers(0, 3, 1200)
    parts = np.split(np.random.default_rng(2).permutation(1200), [670, 891, 960])
    streamed = stream(lambda ids, then: pixels[ids], len(pixels), pixels.shape[1:])
    model = dense(3)
    variables = jax.jit(model.init)(jax.random.key(0))

    def played(images, put, compiled):
        labels = [jnp.asarray(known[part]) for part in parts]
        arrays = Arrays(
            *(put(images[part]) for part in parts), *labels[1:], start=variables
        )
        driver = make_driver(
            model,
            schedule=Schedule(epochs=2, batch_size=90),
            capacity=40,
            selects_epoch=True,
            trains_on_validation=True,
            correction=CorrectionRule("auto"),
            compiled=compiled,
        )
        strategy = fisher_nearest(model, taps=model.taps, budget=20)
        strategy = strategy._replace(query=compiled(strategy.query))
        state = RoundState(jax.random.key(1), pools.create(len(labels[0])), variables)
        records = play(
            driver,
            strategy,
            state,
            arrays,
            array_oracle(known[parts[0]]),
            num_rounds=2,
            hidden_labels=None,
        )
        return [r._replace(seconds={}, peak_memory_mb={}) for _, r in records]

    def sharded(images, num_devices):
        mesh = mesh_of(num_devices)
        return played(
            images,
            lambda part: shard(part, mesh),
            lambda fn: on_all_devices(fn, mesh),
        )

    expected = played(pixels, jnp.asarray, jax.jit)
    assert (expected[0].query.targets >= 0).all()
    found = sharded(pixels, 4) if name.endswith("four") else sharded(streamed, 2)
    for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@check("ties")
def ties(name):
    """Of equally similar examples, the same are matched, wherever the images are."""
    pixels = np.random.default_rng(0).integers(0, 3, (3500, 2, 2, 1), np.uint8)
    streamed = stream(lambda ids, then: pixels[ids], len(pixels), pixels.shape[1:])
    validation = jax.random.randint(jax.random.key(1), (30, 4), 0, 2) * 1.0

    def query(images):
        rows = map_rows(lambda x: x.ravel() * 1.0, images, batch_size=100)
        return match_rows(
            jax.random.key(0),
            rows.map(lambda x: (x, ())),
            jnp.ones(len(images), bool),
            validation,
            jnp.ones(30, bool),
            budget=16,
        )[:3]

    expected = jax.jit(query)(pixels)
    assert len(set(np.asarray(expected[2]).tolist())) < 5
    assert np.median(expected[0]) > 1000  # not the lowest positions
    mesh = mesh_of(4)
    found = on_all_devices(query, mesh)(shard(streamed, mesh))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@check("picks", "picks of all")
def picks(name):
    """A sharded pool gives the query of all examples in one place."""
    names = outputs.GREEDY if name.endswith("all") else ["fisher_ratio"]
    settings = Settings(
        budget=8, taps=outputs.MODEL.taps, kernel=outputs.KERNEL, is_trained=True
    )
    made = [make_strategy(STRATEGIES[n], outputs.MODEL, settings) for n in names]
    view, _ = outputs.view_of(num=1030)

    def queries(pool, view):
        return [
            strategy.query(jax.random.key(0), view._replace(pool=pool))
            for strategy in made
        ]

    pool, view = np.asarray(view.pool), view._replace(pool=None)
    expected = jax.jit(queries)(pool, view)
    for num_devices in (2, 4):
        mesh = mesh_of(num_devices)
        found = on_all_devices(queries, mesh)(shard(pool, mesh), view)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.indices, b.indices)
            np.testing.assert_array_equal(a.pseudo_labels, b.pseudo_labels)
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5)


@check("reading")
def reading(name):
    pixels = np.random.default_rng(0).integers(0, 256, (3500, 2, 2, 1), np.uint8)
    read = []

    def fetch(ids, then):
        read.append(ids)
        return pixels[ids]

    streamed = stream(fetch, 4000, (2, 2, 1))[np.arange(3500)]
    rows = np.array([3499, 0, 1799, 1800, 0])
    assert device_mesh().size == 4
    mesh = mesh_of(2)

    def on_all(fn):
        return on_all_devices(fn, mesh)

    for images in (pixels, streamed):
        images = shard(images, mesh)
        assert images.shape == (3500, 2, 2, 1)
        (leaf,) = jax.tree.leaves(images)
        assert {len(part.data) for part in leaf.addressable_shards} == {1800}
        taken = on_all(lambda images, rows: take(images, rows, rows))(images, rows)
        np.testing.assert_array_equal(taken, pixels[rows], strict=True)
        part = on_all(lambda images, rows: take(images[rows][1:], jnp.array([3, 0])))
        np.testing.assert_array_equal(part(images, rows), pixels[[0, 0]])
        # Of whole batches each device maps its own; others, all map together.
        for size, is_own in ((100, True), (300, True), (77, False), (5000, False)):
            read.clear()

            def fn(images, weights, size=size):
                return map_examples(
                    lambda x, w: x.sum() * w, images, weights, batch_size=size
                )

            found = on_all(fn)(images, jnp.arange(3500))
            expected = pixels.sum((1, 2, 3), dtype=np.int32) * np.arange(3500)
            np.testing.assert_array_equal(found, expected)
            if read and is_own:
                first = [ids for ids in read if ids.max() < 1800]
                second = [ids for ids in read if ids.min() >= 1800]
                assert len(first) == len(second) == len(read) / 2


def main(names):
    raised = {}
    for name in names:
        print(f"{time.process_time():.1f} s: {name}", file=sys.stderr)
        try:
            CHECKS[name]()
            raised[name] = ""
        except Exception:  # whatever a check raises is the test's failure
            raised[name] = traceback.format_exc()
    print(json.dumps(raised))


if __name__ == "__main__":
    main(sys.argv[1:])
