"""Times sketches of gradients that are already computed.

`python -m benchmarks.projection --device cpu`. A dense product and the projector of
TRAK, if installed, are timed on the same threads. The first inputs are rows of P
numbers, as of a small convolution; the second are the two factors of a large dense
layer, whose 2,048,000 gradients per example are computed only for sketches that need
them. The error of the inner products is given in units of |x| |y|.
"""

import sys

import jax
import numpy as np

from benchmarks import harness
from benchmarks.harness import Contender
from fkjax.fisher.kernel import similarity
from fkjax.sketch import structured, unstructured


def main() -> None:
    arguments = harness.options("Sketches alone.").parse_args()
    harness.start(arguments)
    rank = 16 if arguments.smoke else 512
    rows(
        arguments,
        rank,
        num=20 if arguments.smoke else 1000,
        size=64 if arguments.smoke else 16_384,
    )
    factors(
        arguments,
        rank,
        num=10 if arguments.smoke else 100,
        shape=(20, 10) if arguments.smoke else (2048, 1000),
    )


def rows(arguments, rank: int, *, num: int, size: int) -> None:
    """Times sketches from [N, P] to [N, K], a hundred rows at a time."""
    x = jax.random.normal(jax.random.key(0), (num, size))
    exact = np.asarray(similarity(x, x))
    contenders = []
    for kind in (
        unstructured.count_sketch(rank=rank),
        unstructured.count_sketch(rank=rank, num_nonzeros=4),
        unstructured.balanced_fold(rank=rank),
        unstructured.srht(rank=rank),
        unstructured.gaussian(rank=rank),
    ):
        state = kind.init(jax.random.key(1), (size,))
        run = jax.jit(
            lambda s, x, kind=kind: jax.lax.map(
                lambda row: kind.apply(s, row), x, batch_size=100
            )
        )
        name = kind.name
        if any(c.name == f"fkjax {name}" for c in contenders):
            name += ", 4 non-zeros"
        contenders.append(
            Contender(
                f"fkjax {name}",
                lambda run=run, s=state: run(s, x),
                error(exact, run(state, x)),
            )
        )
    contenders += torch_rows(x, rank, exact)
    harness.race(
        f"rows of P={size} to K={rank}",
        contenders,
        examples=num,
        repeats=arguments.repeats,
        baseline=contenders[-1].name,
        size=size,
    )


def torch_rows(x: jax.Array, rank: int, exact: np.ndarray) -> list[Contender]:
    """Returns the projector of TRAK, which keeps its matrix, and a PyTorch product."""
    torch = harness.torch_or_none()
    if not torch:
        return []
    rows = torch.tensor(np.asarray(x))
    ways = {}
    try:
        from trak.projectors import BasicProjector, ProjectionType

        projector = BasicProjector(
            x.shape[1], rank, 0, ProjectionType.normal, "cpu", block_size=rank
        )
        ways["trak BasicProjector, one block"] = lambda: (
            projector.project(rows, model_id=0) / rank**0.5
        )
    except ImportError as reason:
        print(f"left out: trak: {reason}", file=sys.stderr)
    dense = torch.randn(x.shape[1], rank) / rank**0.5
    ways["torch, dense"] = lambda: rows @ dense
    return [
        Contender(name, lambda way=way: way() is None, error(exact, way().numpy()))
        for name, way in ways.items()
    ]


def factors(arguments, rank: int, *, num: int, shape: tuple[int, int]) -> None:
    """Times sketches of factors [N, m] and [N, n]; the baseline computes gradients."""
    keys = jax.random.split(jax.random.key(0))
    a = jax.nn.relu(jax.random.normal(keys[0], (num, 1, shape[0])))
    d = jax.random.normal(keys[1], (num, 1, shape[1]))
    exact = np.asarray(similarity(a[:, 0], a[:, 0]) * similarity(d[:, 0], d[:, 0]))
    contenders = []
    for factory in (
        structured.tensor_sketch,
        structured.khatri_rao,
        unstructured.count_sketch,
    ):
        kind = factory(rank=rank)
        state = kind.init(jax.random.key(1), shape)
        run = jax.jit(
            lambda s, a, d, kind=kind: jax.lax.map(
                lambda pair: kind.apply_factors(s, *pair), (a, d), batch_size=20
            )
        )
        contenders.append(
            Contender(
                f"fkjax {kind.name}",
                lambda run=run, s=state: run(s, a, d),
                error(exact, run(state, a, d)),
            )
        )
    harness.race(
        f"factors of a dense layer {shape[0]} x {shape[1]} to K={rank}",
        contenders,
        examples=num,
        repeats=arguments.repeats,
        baseline="fkjax count_sketch",
    )


def error(exact: np.ndarray, embeddings) -> dict[str, float]:
    """Returns the root mean square error over pairs of different rows."""
    found = np.asarray(embeddings) @ np.asarray(embeddings).T
    norms = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    off_diagonal = ~np.eye(len(exact), dtype=bool)
    relative = ((found - exact) / norms)[off_diagonal]
    return {"inner_product_rmse": round(float(np.sqrt(np.mean(relative**2))), 4)}


if __name__ == "__main__":
    main()
