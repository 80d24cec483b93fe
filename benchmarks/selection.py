"""Times the selection of a query, and measures how its time and memory grow.

`python -m benchmarks.selection --device cpu`. The size of the pool, the number of
targets and the budget are doubled separately. Then 12,500 examples are selected from
1,000,000 rows of 512 numbers for 10,000 targets. The rows are sorted by size, so that
the peak memory of the process belongs to the current row. The embeddings are unit
vectors around 100 random centers; every target is a mistake.
"""

import resource

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.harness import Contender
from fkjax.acquisition.matching import farthest_first, match

RANK = 512


def main() -> None:
    parser = harness.options("Selection: growth in pool, targets and budget.")
    parser.add_argument(
        "--no-full", action="store_true", help="leave out the pool of 1,000,000 x 512"
    )
    arguments = parser.parse_args()
    harness.start(arguments)
    scale = 100 if arguments.smoke else 1
    reducing(arguments, scale=scale)
    n, m, b = 100_000 // scale, 2500 // scale, 2500 // scale
    for grown in (
        (1, 1, 1),
        (1, 1, 2),
        (1, 1, 4),
        (1, 2, 1),
        (1, 4, 1),
        (2, 1, 1),
        (4, 1, 1),
    ):
        sizes = (n * grown[0], m * grown[1], b * grown[2])
        selecting(arguments, *sizes, repeats=arguments.repeats)
    if not (arguments.no_full or arguments.smoke):
        selecting(arguments, 1_000_000, 10_000, 12_500, repeats=2)


def embeddings(purpose: int, num: int) -> jax.Array:
    """Returns embeddings of shape [num, K], computed in parts to limit the memory."""

    def row(i):
        key = jax.random.fold_in(jax.random.key(purpose), i)
        center = jax.random.normal(jax.random.key(7), (100, RANK))[i % 100]
        x = center + jax.random.normal(key, (RANK,))
        return x / jnp.linalg.norm(x)

    return jax.jit(lambda i: jax.lax.map(row, i, batch_size=1000))(jnp.arange(num))


def reducing(arguments, *, scale: int) -> None:
    """Times `farthest_first` with fewer centers than targets."""
    for num_targets, num_centers in ((5000, 250), (10_000, 250), (5000, 500)):
        m, centers = num_targets // scale, num_centers // scale
        targets = embeddings(1, m)
        run = jax.jit(
            lambda x, c=centers: farthest_first(
                jax.random.key(0), x, jnp.ones(len(x), bool), num_centers=c
            )
        )
        harness.race(
            "farthest-first",
            [Contender("fkjax", lambda run=run, x=targets: run(x))],
            examples=m,
            repeats=arguments.repeats,
            baseline="fkjax",
            num_targets=m,
            num_centers=centers,
        )


def selecting(arguments, n: int, m: int, budget: int, *, repeats: int) -> None:
    """Times `match`, where all M targets are mistakes."""
    pool, targets = embeddings(0, n), embeddings(1, m)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    @jax.jit
    def select(pool, targets):
        everything = (jnp.ones(len(x), bool) for x in (pool, targets))
        is_unlabeled, is_mistake = everything
        return match(
            jax.random.key(0), pool, is_unlabeled, targets, is_mistake, budget=budget
        )

    harness.race(
        "selection",
        [Contender("fkjax", lambda: select(pool, targets))],
        examples=n,
        repeats=repeats,
        baseline="fkjax",
        num_pool=n,
        num_targets=m,
        budget=budget,
        rank=RANK,
        embeddings_mb=4 * RANK * (n + m) // 2**20,
        peak_memory_before_mb=before,
    )


if __name__ == "__main__":
    main()
