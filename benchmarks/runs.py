"""Runs of `fkjax.run` that figures are made of: made once, kept, and used again."""

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
    """The columns of a figure that one call of `fkjax.run` makes, seed by seed.

    Attributes:
        folder: of its runs, below the folder of all runs.
        columns: the column's name by strategy.
        changes: to the configuration of MNIST.
        max_seeds: of what takes too long for more.
    """

    folder: str
    columns: dict[str, str]
    changes: dict[str, Any] = {}
    max_seeds: int | None = None

    def config(self, seed: int, *, data_dir: str | None, output_dir: Path) -> Config:
        """What `fkjax.run` is told."""
        return dataclasses.replace(
            defaults("mnist"),
            data_dir=data_dir,
            output_dir=str(output_dir),
            strategies=tuple(self.columns),
            seeds=1,
            seed=seed,
            **self.changes,
        )


def records_of(
    parts: Sequence[Part],
    seeds: Sequence[int],
    *,
    runs_dir: str,
    data_dir: str | None,
    draw_only: bool,
) -> Iterator[dict[str, Any]]:
    """The records of all parts, under the names of their columns.

    Args:
        parts: which runs.
        seeds: of every part.
        runs_dir: finished runs are read from it and new ones kept in it.
        data_dir: as in `fkjax.run`.
        draw_only: leave out what is not finished; else it is run now.

    Raises:
        UserError: if a folder holds the run of another configuration.
    """
    # Seed by seed: stopped early, all columns have the first ones.
    for number, seed in enumerate(seeds):
        for part in parts:
            if part.max_seeds is not None and number >= part.max_seeds:
                continue
            path = Path(runs_dir) / part.folder / f"seed-{seed}"
            config = part.config(seed, data_dir=data_dir, output_dir=path)
            records = _finished(path, config)
            if records is None and not draw_only:
                records = run(config)  # or what is left of it
            for record in records or ():
                if record["strategy"] in part.columns:
                    yield record | {"strategy": part.columns[record["strategy"]]}


_ELSEWHERE = {
    *("data_dir", "output_dir", "overwrite", "strategies", "side_by_side", "preset")
}
"""Settings that do not change what a strategy does."""


def _finished(path: Path, config: Config) -> list[dict[str, Any]] | None:
    """The records of a run with all its rounds, or nothing."""
    if not (path / "config.json").exists():
        return None
    folder = RunFolder.open(path)
    was, wanted = folder.read_config(), dataclasses.asdict(config)
    for name in sorted(set(was) & set(wanted) - _ELSEWHERE):
        value = list(wanted[name]) if isinstance(wanted[name], tuple) else wanted[name]
        if was[name] != value:
            raise UserError(
                f"{path} was run with {name} {was[name]}, and {value} is wanted: move "
                "it away to run it again."
            )
    records = folder.read_records() if (path / "rounds.jsonl").exists() else []
    found = {(r["strategy"], r["round"]) for r in records}
    rounds = range(1, config.rounds + 1)
    if all((s, number) in found for s in config.strategies for number in rounds):
        return records
    return None
