"""What a run has committed, and the state from which it goes on.

A round is committed when its line is in rounds.jsonl. Before that come the checkpoint
of the state that it leaves and its lines in queries.csv; what a killed process wrote of
them is dropped when the run goes on. Checkpoints are kept of the last two rounds, so
that a damaged one costs a round, and of what each seed starts from.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fkjax.files import checkpoint
from fkjax.runs.folder import CHECKPOINTS, RunFolder

KEPT = 2
"""Of how many rounds the checkpoints are kept."""


class Journal:
    """The rounds of a run: in memory, and in a folder if there is one.

    Attributes:
        folder: of the run, or None.
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
        self.folder, self.tell, self.agreed = folder, tell, agreed
        self.records = agreed(lambda: folder.read_records() if folder else [])

    def track(self, strategy: str, seeds: range) -> "Track":
        """Returns the part of one strategy, on seeds that run together."""
        return Track(self, strategy, seeds)

    def start(self, seeds: range, make: Callable[[], Any]) -> Any:
        """What the seeds start from: kept since the run was killed, or made now.

        Args:
            seeds: that are played together.
            make: gives nested dicts of arrays.
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
            self.tell(f"The start of {_name(seeds)} is made again: {error} ({path}).")
            return None

    def conclude(self, seeds: range) -> None:
        """Removes the checkpoints of seeds whose strategies are all finished."""
        if self.folder is not None:
            _remove(_path(self.folder, seeds))


class Track(NamedTuple):
    """The rounds of one strategy in a journal, on seeds that run together.

    Attributes:
        journal: the journal.
        strategy: the name of the strategy.
        seeds: the seeds.
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

    def resume(self, num_rounds: int) -> tuple[int, Any | None]:
        """The last committed round whose state is whole; all later ones are dropped.

        Args:
            num_rounds: that all of the seeds have committed, or stopped before.

        Returns:
            The number of the round, and nested dicts of arrays as handed to `commit`;
            0 and None to begin at the start.
        """
        number, state, self.journal.records = self.journal.agreed(
            lambda: self._kept_round(num_rounds)
        )
        return number, state

    def _kept_round(self, num_rounds: int) -> list[Any]:
        folder, number, state = self.journal.folder, num_rounds, None
        if folder is None:
            return [0, None, self.journal.records]
        while number > 0:
            path = self._path(folder) / f"round-{number}"
            problem = "it is missing"
            try:
                state = checkpoint.restore(path)
            except checkpoint.DamagedError as error:
                problem = str(error)
            if state is not None:
                break
            self.journal.tell(
                f"The checkpoint of {self.strategy}, {_name(self.seeds)}, round "
                f"{number} is not used: {problem} ({path}); going on from round "
                f"{number - 1}."
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
        """Keeps a round.

        Args:
            number: of the round, from 1.
            state: nested dicts of arrays: from which the next round starts.
            rows: of each seed, its record, and the arguments of
                `RunFolder.append_queries`.

        Raises:
            UserError: if it cannot be written; nothing of the earlier rounds is lost.
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
        """Removes the checkpoints of the strategy, which is finished."""
        if self.journal.folder is not None:
            _remove(self._path(self.journal.folder))

    def _path(self, folder: RunFolder) -> Path:
        # "strategy-" keeps apart what may be called "start".
        return _path(folder, self.seeds) / f"strategy-{quote(self.strategy, safe='')}"


def _path(folder: RunFolder, seeds: range) -> Path:
    return folder.path / CHECKPOINTS / _name(seeds).replace(" ", "-")


def _remove(path: Path) -> None:
    checkpoint.remove(path)
    with contextlib.suppress(OSError):  # until it is empty
        path.parent.rmdir()


def _name(seeds: range) -> str:
    first, last = seeds[0], seeds[-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"
