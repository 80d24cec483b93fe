"""The committed rounds of a run, and the state from which it resumes.

A round is committed when its line is in rounds.jsonl. Its checkpoint and its lines in
queries.csv are written before that line; those of an uncommitted round are removed when
the run resumes. The checkpoints of the last two rounds are kept, so a damaged one costs
a single round. The initial state of each seed is kept, too.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fkjax.files import checkpoint
from fkjax.runs.folder import CHECKPOINTS, RunFolder

KEPT = 2
"""The number of last rounds whose checkpoints are kept."""


class Journal:
    """The committed rounds of a run, in memory and in its folder, if it has one.

    Attributes:
        folder: folder of the run, or None.
        records: records of all committed rounds, in the order of the run.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        *,
        tell: Callable[[str], None],
        agreed: Callable[[Callable[[], Any]], Any] = lambda make: make(),
    ):
        """Reads the committed rounds.

        Args:
            folder: folder of the run; None to write nothing.
            tell: function called with a sentence if a checkpoint is damaged.
            agreed: function `agreed(make)` that returns the result of `make()` in the
                process that has the folder, in all processes
                (`fkjax.parallel.processes.agreed`).

        Raises:
            UserError: if rounds.jsonl cannot be read.
        """
        self.folder, self.tell, self.agreed = folder, tell, agreed
        self.records = agreed(lambda: folder.read_records() if folder else [])

    def track(self, strategy: str, seeds: range) -> "Track":
        """Returns the part of one strategy, on seeds that run together."""
        return Track(self, strategy, seeds)

    def start(self, seeds: range, make: Callable[[], Any]) -> Any:
        """Returns the initial state of seeds: the saved one, or else a new one.

        Args:
            seeds: seeds that run together.
            make: function that computes the state, nested dicts of arrays.
        """
        state = self.agreed(lambda: self._kept_start(seeds))
        if state is None:
            state = make()
            if self.folder is not None:
                checkpoint.save(_path(self.folder, seeds) / "start", state)
        return state

    def _kept_start(self, seeds: range) -> Any | None:
        if self.folder is None:
            return None
        path = _path(self.folder, seeds) / "start"
        try:
            return checkpoint.restore(path)
        except checkpoint.DamagedError as error:
            self.tell(
                f"the initial state of {_name(seeds)} is computed again: {error} "
                f"({path})"
            )
            return None

    def conclude(self, seeds: range) -> None:
        """Removes the checkpoints of seeds whose strategies are all finished."""
        if self.folder is not None:
            _remove(_path(self.folder, seeds))


class Track(NamedTuple):
    """The rounds of one strategy in a journal, on seeds that run together.

    Attributes:
        journal: journal of the run.
        strategy: name of the strategy.
        seeds: seeds that run together.
    """

    journal: Journal
    strategy: str
    seeds: range

    def rounds(self) -> dict[int, list[dict[str, Any]]]:
        """Returns the committed records of each seed, by round."""
        return {
            seed: [
                r
                for r in self.journal.records
                if (r["strategy"], r["seed"]) == (self.strategy, seed)
            ]
            for seed in self.seeds
        }

    def resume(self, last: int, *, first: int = 1) -> tuple[int, Any | None]:
        """Restores the last committed round with an undamaged state.

        Later rounds are removed.

        Args:
            last: number of the last round that all seeds have committed, or stopped
                before; `first - 1` if there is none.
            first: number of the first round.

        Returns:
            The number of the round, and its state as given to `commit`; `first - 1` and
            None if there is no such round.
        """
        number, state, self.journal.records = self.journal.agreed(
            lambda: self._kept_round(last, first)
        )
        return number, state

    def _kept_round(self, last: int, first: int) -> list[Any]:
        folder, number, state = self.journal.folder, last, None
        if folder is None:
            return [first - 1, None, self.journal.records]
        while number >= first:
            path = self._path(folder) / f"round-{number}"
            problem = "it is missing"
            try:
                state = checkpoint.restore(path)
            except checkpoint.DamagedError as error:
                problem = str(error)
            if state is not None:
                break
            before = f"round {number - 1}" if number > 0 else "the start"
            self.journal.tell(
                f"the checkpoint of {self.strategy}, {_name(self.seeds)}, round "
                f"{number} cannot be used: {problem} ({path}); resuming from {before}"
            )
            number -= 1
        for seed in self.seeds:
            folder.rewind(strategy=self.strategy, seed=seed, round=number + 1)
        return [number, state, folder.read_records()]

    def commit(
        self,
        number: int,
        state: Any,
        rows: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    ) -> None:
        """Commits a round.

        Args:
            number: number of the round.
            state: state from which the next round starts, nested dicts of arrays.
            rows: record of each seed, with the arguments of
                `RunFolder.append_queries`.

        Raises:
            UserError: if a file cannot be written; earlier rounds are not lost.
        """
        folder = self.journal.folder
        if folder is not None:
            path = self._path(folder)
            checkpoint.save(path / f"round-{number}", state)
            for record, queries in rows:
                folder.append_queries(**queries)
                folder.append_record(record)
            checkpoint.remove(path / f"round-{number - KEPT}")
        self.journal.records += [record for record, _ in rows]

    def conclude(self) -> None:
        """Removes the checkpoints of the finished strategy."""
        if self.journal.folder is not None:
            _remove(self._path(self.journal.folder))

    def _path(self, folder: RunFolder) -> Path:
        # The prefix "strategy-" avoids a conflict with "start".
        return _path(folder, self.seeds) / f"strategy-{quote(self.strategy, safe='')}"


def _path(folder: RunFolder, seeds: range) -> Path:
    return folder.path / CHECKPOINTS / _name(seeds).replace(" ", "-")


def _remove(path: Path) -> None:
    checkpoint.remove(path)
    with contextlib.suppress(OSError):  # raised while the folder is not empty
        path.parent.rmdir()


def _name(seeds: range) -> str:
    first, last = seeds[0], seeds[-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"
