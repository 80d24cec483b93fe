"""What a run has committed, and the state from which it goes on.

A round is committed when its line is in rounds.jsonl. Before that come the checkpoint
of the state that it leaves and its lines in queries.csv; what a killed process wrote of
them is dropped when the run goes on. Checkpoints are kept of the last two rounds, so
that a damaged one costs a round, and of what each seed starts from.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fkjax.files import checkpoint
from fkjax.runs.folder import CHECKPOINTS, RunFolder

KEPT = 2
"""Of how many rounds the checkpoints are kept."""


class Journal:
    """The rounds of a run: in memory, and in a folder if there is one.

    Attributes:
        records: of all committed rounds, in the order of the run.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        *,
        tell: Callable[[str], None],
        agreed: Callable[[Callable[[], Any]], Any] = lambda make: make(),
    ):
        """Reads what is committed.

        Args:
            folder: of the run; None to keep nothing.
            tell: called with a sentence where a checkpoint is damaged.
            agreed: `agreed(make)` is what `make` gives where the folder is, for several
                processes of which one has it (`fkjax.parallel.processes.agreed`).

        Raises:
            UserError: if rounds.jsonl cannot be read.
        """
        self._folder, self._tell, self._agreed = folder, tell, agreed
        self.records = agreed(lambda: folder.read_records() if folder else [])

    def rounds(self, strategy: str, seed: int) -> list[dict[str, Any]]:
        """The committed records of one strategy and seed, by round."""
        return [
            r for r in self.records if (r["strategy"], r["seed"]) == (strategy, seed)
        ]

    def start(self, seeds: range, make: Callable[[], Any]) -> Any:
        """What the seeds start from: kept since the run was killed, or made now.

        Args:
            seeds: that are played together.
            make: gives nested dicts of arrays.
        """
        state = self._agreed(lambda: self._kept_start(seeds))
        if state is None:
            state = make()
            if self._folder is not None:
                checkpoint.save(self._path(seeds) / "start", state)
        return state

    def _kept_start(self, seeds: range) -> Any | None:
        if self._folder is None:
            return None
        path = self._path(seeds) / "start"
        try:
            return checkpoint.restore(path)
        except checkpoint.DamagedError as error:
            self._tell(f"The start of {_name(seeds)} is made again: {error} ({path}).")
            return None

    def resume(
        self, strategy: str, seeds: range, num_rounds: int
    ) -> tuple[int, Any | None]:
        """The last committed round whose state is whole; all later ones are dropped.

        Args:
            strategy: which.
            seeds: that are played together.
            num_rounds: that all of them have committed, or stopped before.

        Returns:
            The number of the round, and nested dicts of arrays as handed to `commit`;
            0 and None to begin at the start.
        """
        number, state, self.records = self._agreed(
            lambda: self._kept_round(strategy, seeds, num_rounds)
        )
        return number, state

    def _kept_round(self, strategy: str, seeds: range, num_rounds: int) -> list[Any]:
        if self._folder is None:
            return [0, None, self.records]
        number, state = num_rounds, None
        while number > 0:
            path = self._path(seeds, strategy) / f"round-{number}"
            problem = "it is missing"
            try:
                state = checkpoint.restore(path)
            except checkpoint.DamagedError as error:
                problem = str(error)
            if state is not None:
                break
            self._tell(
                f"The checkpoint of {strategy}, {_name(seeds)}, round {number} is not "
                f"used: {problem} ({path}); going on from round {number - 1}."
            )
            number -= 1
        for seed in seeds:
            self._folder.rewind(strategy=strategy, seed=seed, round=number + 1)
        return [number, state, self._folder.read_records()]

    def commit(
        self,
        strategy: str,
        seeds: range,
        number: int,
        state: Any,
        rows: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    ) -> None:
        """Keeps a round.

        Args:
            strategy: which.
            seeds: that are played together.
            number: of the round, from 1.
            state: nested dicts of arrays: from which the next round starts.
            rows: of each seed, its record, and the arguments of
                `RunFolder.append_queries`.

        Raises:
            UserError: if it cannot be written; nothing of the earlier rounds is lost.
        """
        if self._folder is not None:
            folder = self._path(seeds, strategy)
            checkpoint.save(folder / f"round-{number}", state)
            for record, queries in rows:
                self._folder.append_queries(**queries)
                self._folder.append_record(record)
            checkpoint.remove(folder / f"round-{number - KEPT}")
        self.records += [record for record, _ in rows]

    def conclude(self, seeds: range, strategy: str | None = None) -> None:
        """Removes the checkpoints of a strategy, or of seeds, that are finished."""
        if self._folder is not None:
            path = self._path(seeds, strategy)
            checkpoint.remove(path)
            with contextlib.suppress(OSError):  # until it is empty
                path.parent.rmdir()

    def _path(self, seeds: range, strategy: str | None = None) -> Path:
        assert self._folder is not None
        path = self._folder.path / CHECKPOINTS / _name(seeds).replace(" ", "-")
        # "strategy-" keeps apart what may be called "start".
        return path / f"strategy-{quote(strategy, safe='')}" if strategy else path


def _name(seeds: range) -> str:
    first, last = seeds[0], seeds[-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"
