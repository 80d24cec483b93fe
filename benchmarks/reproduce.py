"""Reproduces a figure of the paper: `python -m benchmarks.reproduce`.

Runs the columns that are not yet under `--runs-dir`, then writes the table beside the
paper's and the figure to `--results-dir`.
"""

import dataclasses
import datetime
import itertools
import platform
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from benchmarks import paper
from fkjax import figures, tables
from fkjax.base import UserError
from fkjax.config import Config, defaults
from fkjax.reporting import RunFolder
from fkjax.run import run


class Run(NamedTuple):
    """One call of `fkjax.run`: the columns that share the choice of an epoch."""

    checkpoint_selection: str
    strategies: tuple[str, ...]

    def column(self, strategy: str) -> str:
        """The name of a strategy in the table; descriptors have L = 80."""
        length = "" if strategy == "random" else " L80"
        best = ", best test epoch" if self.checkpoint_selection == "test" else ""
        return f"{strategy}{length}{best}"


RUNS = (
    Run("last", ("random", "fisher_nearest", "fisher_oracle")),
    Run("test", ("fisher_nearest",)),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Reproduces the MNIST curves at 100x imbalance, beside the paper's."""

    data_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Holds mnist/*-ubyte[.gz]; else $FKJAX_DATA_DIR."""
    runs_dir: str = "runs/mnist-100x"
    """Where the runs are kept; finished ones are used again."""
    results_dir: str = "docs/results"
    """Where mnist-100x.md and mnist-100x.png go."""
    seeds: int = 5
    """Seeds of every column."""
    seed: int = 6
    """The first of them. Dropout and initialisation were chosen on seeds 0 to 5."""


def main() -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.reproduce")
    try:
        records = [r for part in RUNS for r in _records(options, part)]
    except UserError as error:
        print(f"benchmarks.reproduce: {error}", file=sys.stderr)
        return 2
    results = Path(options.results_dir)
    results.mkdir(parents=True, exist_ok=True)
    reference = {
        name: (paper.MNIST_100X_LABELS, paper.MNIST_100X[name])
        for name in ("random", "fisher_nearest L80", "fisher_oracle L20")
    }
    figures.draw_learning_curve(
        records,
        results / "mnist-100x.png",
        title="MNIST, step imbalance 100x",
        reference=reference,
    )
    text = "\n".join(
        [
            "# MNIST, step imbalance 100x, beside the paper\n",
            "Made by `python -m benchmarks.reproduce --data-dir DIR`. How to read it: "
            "[README.md](README.md).\n",
            f"{_stamp(options)}; test accuracy in percent, mean±std over seeds. "
            "*reference*: the paper's plots, read by eye to about one point; they keep "
            "the epoch that is best on the test set.\n",
            "![Learning curves](mnist-100x.png)\n",
            tables.markdown_curves(records, reference),
        ]
    )
    (results / "mnist-100x.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _config(options: Options, part: Run) -> Config:
    return dataclasses.replace(
        defaults("mnist"),
        data_dir=options.data_dir,
        output_dir=str(Path(options.runs_dir) / part.checkpoint_selection),
        strategies=part.strategies,
        checkpoint_selection=part.checkpoint_selection,
        seeds=options.seeds,
        seed=options.seed,
    )


def _records(options: Options, part: Run) -> list[dict[str, Any]]:
    """The records of a run, made now if they are not there, under column names."""
    config = _config(options, part)
    path = Path(options.runs_dir) / part.checkpoint_selection
    if path.exists():
        records = RunFolder.open(path).read_records()
        found = sorted((r["strategy"], r["seed"], r["round"]) for r in records)
        seeds = range(config.seed, config.seed + config.seeds)
        rounds = range(1, config.rounds + 1)
        if found != sorted(itertools.product(config.strategies, seeds, rounds)):
            raise UserError(
                f"{path} does not hold {config.rounds} rounds of each strategy with "
                f"seeds {seeds[0]} to {seeds[-1]}: move it away to run them again."
            )
    else:
        records = run(config)
    return [r | {"strategy": part.column(r["strategy"])} for r in records]


def _stamp(options: Options) -> str:
    today = datetime.date.today().isoformat()
    return (
        f"{today}, jax {jax.__version__}, Python {platform.python_version()}, "
        f"{jax.default_backend()}, seeds {options.seed} to "
        f"{options.seed + options.seeds - 1}"
    )


if __name__ == "__main__":
    sys.exit(main())
