"""Times kernels: exact and sketched Gram matrices, and streamed nearest neighbors.

`python -m benchmarks.kernel --device cpu`. The exact Gram matrix of the Fisher vectors
of a LeNet, computed from factors, is compared with the product of explicit gradients;
the Gram matrix of sketches with the fastest matrix products of JAX and PyTorch; and the
streamed search for nearest neighbors with one top-k of all similarities.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, workload
from benchmarks.harness import Contender
from fkjax.acquisition.neighbors import top_k_streamed
from fkjax.fisher import capture
from fkjax.fisher.gram import gram
from fkjax.fisher.kernel import similarity
from fkjax.fisher.vectors import of_parameters

RANK = 512


def main() -> None:
    parser = harness.options("Exact and sketched Gram matrices, nearest neighbors.")
    arguments = workload.add_data_dir(parser).parse_args()
    harness.start(arguments)
    size = 60 if arguments.smoke else 8000
    work = workload.load(arguments, size=size, epochs=1 if arguments.smoke else 20)
    exact(arguments, work)
    sketched(arguments, sizes=(50, 100) if arguments.smoke else (2048, 8192))
    neighbors(arguments, num=300 if arguments.smoke else 100_000)


def exact(arguments, work: workload.Workload) -> None:
    """Times the exact Gram matrix of all parameters, of two halves of the images."""
    log_probs_fn, theta = of_parameters(work.model, work.variables)
    images, labels = jnp.asarray(work.images), jnp.asarray(work.labels)
    plan = capture.plan(log_probs_fn, theta, images[0])
    captured = jax.jit(
        lambda x, y: jax.lax.map(
            lambda pair: capture.capture(log_probs_fn, theta, *pair),
            (x, y),
            batch_size=100,
        )
    )(images, labels)
    half = len(labels) // 2
    first, second = (
        jax.tree.map(lambda x, part=part: x[part], captured)
        for part in (slice(half), slice(half, None))
    )

    @jax.jit
    def by_factors(first, second):
        sides = (
            {path: uses[0] for path, uses in side.factors.items()}
            for side in (first, second)
        )
        return gram(*sides, has_bias=True)

    @jax.jit
    def written_out(first, second):
        def vector(captured):
            leaves = jax.tree.leaves(capture.gradient(plan, captured))
            return jnp.concatenate([leaf.ravel() for leaf in leaves])

        u, v = (jax.lax.map(vector, side, batch_size=100) for side in (first, second))
        return similarity(u, v)

    expected = np.asarray(written_out(first, second))
    error = abs(np.asarray(by_factors(first, second)) - expected).max()
    harness.race(
        "exact Gram of all parameters",
        [
            Contender(
                "fkjax",
                lambda: by_factors(first, second),
                {"largest_error": float(error / abs(expected).max())},
            ),
            Contender("gradients written out", lambda: written_out(first, second)),
        ],
        examples=half * half,
        repeats=arguments.repeats,
        baseline="gradients written out",
        num_examples=half,
        data=work.source,
    )


def sketched(arguments, *, sizes: tuple[int, int]) -> None:
    """Times Gram matrices of sketches, where an example is one arithmetic operation.

    The larger result does not fit in the memory that the allocator keeps: all of its
    pages are new. The cost of these is measured by filling as much memory with ones.
    """
    side = 128 if arguments.smoke else 4096
    square = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(
        lambda x, y: jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
    )
    run = jax.jit(similarity)
    contenders = []
    for size in sizes:
        keys = jax.random.split(jax.random.key(1))
        rows, others = (jax.random.normal(key, (size, RANK)) for key in keys)
        contenders.append(
            Contender(
                f"fkjax, {size:,} x {size:,}",
                lambda x=rows, y=others: run(x, y),
                examples=2 * size**2 * RANK,
            )
        )
    torch = harness.torch_or_none()
    if torch:
        peer = torch.tensor(np.asarray(square))
        contenders.append(Contender("torch, square", lambda: (peer @ peer) is None))
    contenders.append(Contender("jax, square", lambda: product(square, square)))
    harness.race(
        f"operations of a sketched Gram, K={RANK}",
        contenders,
        examples=2 * side**3,
        repeats=arguments.repeats,
        baseline="jax, square",
        square=side,
    )
    ones = jax.jit(lambda: jnp.ones((sizes[-1], sizes[-1])))
    harness.race(
        f"ones in {sizes[-1]:,} x {sizes[-1]:,}",
        [Contender("jax", ones)],
        examples=sizes[-1] ** 2,
        repeats=arguments.repeats,
        baseline="jax",
    )


def neighbors(arguments, *, num: int) -> None:
    """Times the search for the 100 nearest of N rows to each of 1,000 targets."""
    k, num_targets = (10, 20) if arguments.smoke else (100, 1000)
    keys = jax.random.split(jax.random.key(0))
    targets = jax.random.normal(keys[0], (num_targets, RANK))
    pool = jax.random.normal(keys[1], (num, RANK))
    at_once = jax.jit(lambda q, p: jax.lax.top_k(similarity(q, p), k))
    harness.race(
        f"{k} nearest to each of {num_targets} targets",
        [
            Contender("fkjax", lambda: top_k_streamed(targets, pool, k=k)),
            Contender("all similarities", lambda: at_once(targets, pool)),
        ],
        examples=num,
        repeats=arguments.repeats,
        baseline="all similarities",
        rank=RANK,
    )


if __name__ == "__main__":
    main()
