"""Runs of `fkjax run` for figures, which are executed once, kept and reused."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fkjax.base import UserError
from fkjax.commands.run import run
from fkjax.experiment.config import Config
from fkjax.experiment.presets import defaults
from fkjax.runs.folder import RunFolder


class Part(NamedTuple):
    """The columns of a figure that one call of `fkjax run` computes for each seed.

    Attributes:
        folder: folder of its runs, in the folder of all runs.
        columns: name of the column, by strategy.
        changes: changes of the configuration of MNIST: the defaults, with
            10,000 validation images that are held out and without correction, as in
            the paper.
        max_seeds: maximum number of seeds, for runs that take long.
    """

    folder: str
    columns: dict[str, str]
    changes: dict[str, Any] = {}
    max_seeds: int | None = None

    def config(self, seed: int, *, data_dir: str | None, output_dir: Path) -> Config:
        """Returns the configuration of a run."""
        changes: dict[str, Any] = {
            "validation_size": 10_000,
            "validation_role": "hold-out",
            "prior_correction": "none",
        }
        return dataclasses.replace(
            defaults("mnist"),
            data_dir=data_dir,
            output_dir=str(output_dir),
            strategies=tuple(self.columns),
            seeds=1,
            seed=seed,
            **(changes | self.changes),
        )


def records_of(
    parts: Sequence[Part],
    seeds: Sequence[int],
    *,
    runs_dir: str,
    data_dir: str | None,
    draw_only: bool,
) -> Iterator[dict[str, Any]]:
    """Yields the records of all parts, with the names of their columns.

    Args:
        parts: the runs.
        seeds: seeds of every part.
        runs_dir: folder of the runs.
        data_dir: see `fkjax run`.
        draw_only: whether to leave out runs that are not finished; otherwise, they are
            executed.

    Raises:
        UserError: if a folder contains a run of another configuration.
    """
    # Seed by seed, so that all columns have the first seeds after an interruption.
    for number, seed in enumerate(seeds):
        for part in parts:
            if part.max_seeds is not None and number >= part.max_seeds:
                continue
            path = Path(runs_dir) / part.folder / f"seed-{seed}"
            config = part.config(seed, data_dir=data_dir, output_dir=path)
            records = _finished(path, config)
            if records is None and not draw_only:
                records = run(config)  # resumes the run if it exists
            for record in records or ():
                if record["strategy"] in part.columns:
                    yield record | {"strategy": part.columns[record["strategy"]]}


_ELSEWHERE = {
    *("data_dir", "output_dir", "overwrite", "strategies", "side_by_side", "preset")
}
"""Settings that do not affect the results of a strategy."""


def _finished(path: Path, config: Config) -> list[dict[str, Any]] | None:
    """Returns the records of a run if it has all its rounds, else None."""
    if not (path / "config.json").exists():
        return None
    folder = RunFolder.open(path)
    was, wanted = folder.read_config(), dataclasses.asdict(config)
    for name in sorted(set(was) & set(wanted) - _ELSEWHERE):
        value = list(wanted[name]) if isinstance(wanted[name], tuple) else wanted[name]
        if was[name] != value:
            raise UserError(
                f"{path} was run with {name} {was[name]}, but {value} is needed: move "
                "it away to run it again"
            )
    records = folder.read_records() if (path / "rounds.jsonl").exists() else []
    found = {(r["strategy"], r["round"]) for r in records}
    rounds = range(1, config.rounds + 1)
    if all((s, number) in found for s in config.strategies for number in rounds):
        return records
    return None
