"""The progress bar of a run."""

import math
import os
import sys

import rich.console
import rich.progress

from fkjax.base import printable


class Progress:
    """A progress bar for a whole run on stderr, shown only on a terminal.

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
        """Prepares the bar, which is shown from the beginning of the `with` block.

        Args:
            total: number of steps of the run: the rounds of all strategies and seeds,
                and the steps reported with `advance`.
            completed: number of steps done before the run was resumed.
            console: console to draw on; stderr if None.
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
            # A step takes seconds to hours, so the estimate uses all of them.
            speed_estimate_period=math.inf,
            # Text printed to a piped stdout must not appear on the terminal.
            redirect_stdout=os.isatty(1),
            # The file is checked because rich would trust FORCE_COLOR.
            disable=not console.file.isatty() or console.is_dumb_terminal,
        )
        self._task = self._bar.add_task("starting", total=total, completed=completed)

    def __enter__(self) -> "Progress":
        """Starts showing the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the bar, whose last state stays on the screen."""
        self._bar.stop()

    def close(self) -> None:
        """Stops the bar before the end of the `with` block."""
        self._bar.stop()

    def tell(self, sentence: str) -> None:
        """Prints a sentence to stderr, above the bar if it is shown."""
        print(f"fkjax: {printable(sentence)}", file=sys.stderr)

    def advance(self, description: str, *, steps: int = 1) -> None:
        """Reports that steps are done.

        Args:
            description: short description of the steps.
            steps: number of steps.
        """
        self._bar.update(self._task, description=description, advance=steps)

    def update(self, *, strategy: str, seed: int, round: int, accuracy: float) -> None:
        """Reports that one round is done.

        Args:
            strategy: name of the strategy.
            seed: seed of the run.
            round: number of the round.
            accuracy: test accuracy after the round, as a fraction.
        """
        self.advance(f"{strategy}, seed {seed}, round {round}: {100 * accuracy:.1f} %")
