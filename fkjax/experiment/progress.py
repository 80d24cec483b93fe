"""The progress bar of a run."""

import math
import os
import sys

import rich.console
import rich.progress

from fkjax.base import printable


class Progress:
    """A bar for a whole run on the terminal behind stderr; silent if there is none.

    >>> with Progress(total=3) as progress:
    ...     progress.advance("pretraining")
    ...     progress.update(strategy="random", seed=0, round=0, accuracy=0.5)
    """

    def __init__(
        self,
        total: int,
        *,
        completed: int = 0,
        console: rich.console.Console | None = None,
    ):
        """Prepares the bar; nothing shows before the `with`.

        Args:
            total: steps of the run: rounds over all strategies and seeds, and
                whatever else is reported with `advance`.
            completed: steps that an earlier, resumed run has done.
            console: where to draw; stderr if None.
        """
        if console is None:
            console = rich.console.Console(stderr=True)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=12),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            # A step takes seconds to hours: all of them make the estimate.
            speed_estimate_period=math.inf,
            # What is printed to a stdout that is piped must not end on the terminal.
            redirect_stdout=os.isatty(1),
            # Asked of the file: rich would believe FORCE_COLOR.
            disable=not console.file.isatty() or console.is_dumb_terminal,
        )
        self._task = self._bar.add_task("starting", total=total, completed=completed)

    def __enter__(self) -> "Progress":
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the bar and leaves its last state on the screen."""
        self._bar.stop()

    def close(self) -> None:
        """Stops the bar before the end of the `with`."""
        self._bar.stop()

    def tell(self, sentence: str) -> None:
        """Prints a sentence to stderr, above the bar if there is one."""
        print(f"fkjax: {printable(sentence)}", file=sys.stderr)

    def advance(self, description: str, *, steps: int = 1) -> None:
        """Notes that steps are done.

        Args:
            description: a few words on it.
            steps: how many.
        """
        self._bar.update(self._task, description=description, advance=steps)

    def update(self, *, strategy: str, seed: int, round: int, accuracy: float) -> None:
        """Notes that one round is done.

        Args:
            strategy: name of the strategy.
            seed: seed of the run.
            round: number of the round.
            accuracy: test accuracy after it, a fraction.
        """
        self.advance(f"{strategy}, seed {seed}, round {round}: {100 * accuracy:.1f} %")
