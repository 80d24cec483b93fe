"""Measures what calls cost besides their work: `python -m benchmarks.footprint`.

Memory and compilations do not depend on the machine's speed, so that this needs no
contenders: run it at two commits. Each row is one JSON line: the CPU seconds and the
number of compilations of a call, after the same call with other values, or the memory
in MB that a compiled program needs besides its arguments and results. The planning of a
wide layer runs first, so that the growth of the peak memory is its own.
"""

import json
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fkjax.acquisition.neighbors import top_k_streamed
from fkjax.fisher import Factors, capture, fisher_vectors, of_parameters
from fkjax.fisher.gram import gram
from fkjax.models import lenet, resnet10
from fkjax.selection.select import select
from fkjax.sketch import (
    auto,
    count_sketch,
    embed,
    embed_all_classes,
    predicted,
    project,
)

compiled: list[str] = []


def main() -> None:
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            compiled.append(event) if "backend_compile" in event else None
        )
    )
    planning()
    second_calls()
    programs()


def planning() -> None:
    """Asks how a kernel of 4096 x 14336 is used, 235 MB in float32."""

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax((x @ theta["w"])[:10])

    theta = {"w": jax.ShapeDtypeStruct((4096, 14336), jnp.float32)}
    x = jax.ShapeDtypeStruct((4096,), jnp.float32)
    uses = capture.plan(log_probs_fn, theta, x).uses["w"]
    before, seconds = peak_megabytes(), time.process_time()
    capture.is_plain(uses)
    show(
        "plan of a kernel of 4096 x 14336",
        cpu_seconds=time.process_time() - seconds,
        megabytes=peak_megabytes() - before,
    )


def second_calls() -> None:
    """Calls functions twice, outside of `jit`."""
    theta, xs = {"w": jnp.ones((6, 4))}, jnp.ones((200, 6))
    projection = project(count_sketch(rank=32))
    state = projection.init(jax.random.key(0), theta)
    factors = Factors(jnp.ones((20, 9, 6)), jnp.ones((20, 9, 6)))
    rows = np.random.default_rng(0).standard_normal((60, 64)).astype(np.float32)
    network = nnx.Sequential(
        *(nnx.Linear(64, 32, rngs=nnx.Rngs(0)), nnx.relu),
        nnx.Linear(32, 10, rngs=nnx.Rngs(1)),
    )

    def log_probs_fn(theta, x):
        return jax.nn.log_softmax(x @ theta["w"])

    def selected(i: int) -> Any:
        validation = {"images": rows[:20], "labels": np.arange(20) % 10}
        return select(
            {"images": rows[20:]}, validation, network=network, budget=5, seed=i
        )

    layers = {"conv": factors}
    call_twice(
        "embed",
        lambda i: embed(log_probs_fn, theta, xs + i, predicted, projection, state),
    )
    call_twice("gram", lambda i: gram(layers, layers, has_bias=True, chunk_size=4))
    call_twice("select(network=)", selected)


def call_twice(name: str, call: Callable[[int], Any]) -> None:
    jax.block_until_ready(jax.tree.leaves(call(0)))
    before, seconds = len(compiled), time.process_time()
    jax.block_until_ready(jax.tree.leaves(call(1)))
    show(
        f"second call of {name}",
        cpu_seconds=time.process_time() - seconds,
        compilations=len(compiled) - before,
    )


def programs() -> None:
    """Compiles programs of large shapes, without running them."""
    theta = {
        "embedding": jnp.zeros((500, 64)),
        "first": jnp.zeros((64, 256)),
        "second": jnp.zeros((256, 64)),
        "head": jnp.zeros((64, 1000)),
    }

    def log_probs_fn(theta, tokens):
        inner = jax.nn.gelu(theta["embedding"][tokens] @ theta["first"])
        return jax.nn.log_softmax((inner @ theta["second"]).mean(0) @ theta["head"])

    tokens = jnp.zeros((32, 16), jnp.int32)
    plan = auto(log_probs_fn, theta, tokens[0], rank=512)
    projection = project(plan.sketches)
    state = projection.init(jax.random.key(0), theta)

    def all_classes(theta, state, xs):
        return embed_all_classes(log_probs_fn, theta, xs, projection, state)

    show_program("embed_all_classes, 1,000 classes", all_classes, theta, state, tokens)
    residual(images=jax.ShapeDtypeStruct((32, 64, 64, 3), jnp.uint8))
    for dtype in ("float32", "bfloat16"):
        queries, pool = (
            jax.ShapeDtypeStruct((num, 256), dtype) for num in (8, 200_000)
        )
        show_program(
            f"top_k_streamed, pool of 200,000 x 256 in {dtype}",
            lambda queries, pool: top_k_streamed(queries, pool, k=10),
            *(queries, pool),
        )
    model = lenet((28, 28, 1), 10)
    fn, chosen = of_parameters(model, model.init(jax.random.key(0)), names=["fc2"])
    sketch = project(count_sketch(rank=8))
    drawn = sketch.init(jax.random.key(0), chosen)
    images = jnp.zeros((4, 28, 28, 1), jnp.uint8)

    def some(fn, *args):
        chosen, drawn, images = args
        return embed(fn, chosen, images, predicted, sketch, drawn)

    args = chosen, drawn, images
    if callable(jax.tree.leaves(fn)[0]):  # the function is no pytree of arrays
        traced = jax.make_jaxpr(lambda *args: some(fn, *args))(*args)
    else:
        traced = jax.make_jaxpr(some)(fn, *args)
    frozen = sum(np.size(x) for x in traced.consts) * 4 / 1e3
    show("constants of embed by one layer of a LeNet (87 kB)", kilobytes=frozen)


def residual(images: jax.ShapeDtypeStruct) -> None:
    """Embeds images by all parameters of a ResNet-10, also by plain gradients."""
    model = resnet10((64, 64, 3), 10, mean=(0.5,) * 3, std=(0.5,) * 3)
    fn, theta = of_parameters(model, jax.jit(model.init)(jax.random.key(0)))
    x = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    projection = project(auto(fn, theta, x, rank=512).sketches)
    plain = project(count_sketch(rank=512))

    def embedded(theta, state, images):
        return embed(fn, theta, images, predicted, projection, state)

    def sketched(theta, state, images):
        labels = jnp.zeros(len(images), jnp.int32)
        vectors = fisher_vectors(fn, theta, images, labels)
        return jax.vmap(plain.apply, (None, 0))(state, vectors)

    for name, call, its in (
        ("embed, 32 images of 64 x 64, ResNet-10", embedded, projection),
        ("the same by plain gradients and count_sketch", sketched, plain),
    ):
        state = jax.eval_shape(lambda its=its: its.init(jax.random.key(0), theta))
        show_program(name, call, theta, state, images)


def show_program(name: str, fn: Callable, *args: Any) -> None:
    compiled = jax.jit(fn).lower(*args).compile()
    show(name, megabytes=compiled.memory_analysis().temp_size_in_bytes / 1e6)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def show(name: str, **facts: float) -> None:
    row = {"name": name, **{key: round(value, 2) for key, value in facts.items()}}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
