"""What to label next: `fkjax.select(...)`, and `python -m fkjax.select`.

The module may be called like the function `select` in it.
"""

import contextlib
import csv
import dataclasses
import io
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
import tyro

from fkjax.acquisition import STRATEGIES
from fkjax.base import Strategy, UserError, printable
from fkjax.config import check_name
from fkjax.files import open_file
from fkjax.outputs import SUFFICE, problem_of_outputs
from fkjax.reporting import csv_bytes, explained, inert, replace_file
from fkjax.selection import Selection, choose

COLUMNS = (
    *("rank", "id", "score", "pseudo_label", "answers", "answers_label"),
    *("answers_predicted", "predicted", "confidence", "reason"),
)
"""The columns of the CSV file."""

_SHOWN = 10  # picks on the screen


def select(
    pool: Any,
    validation: Any,
    *,
    budget: int,
    strategy: str | Strategy = "fisher_nearest",
    labeled: Iterable[Any] = (),
    classes: Sequence[Any] | None = None,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> Selection:
    """Chooses what to label next, from what a network made of the pool.

    >>> import numpy as np
    >>> features = np.eye(4, dtype=np.float32)
    >>> logits = np.array([[2, 0], [2, 0], [0, 2], [0, 1]], np.float32)
    >>> pool = {"features": features, "logits": logits}
    >>> validation = {"features": features[2:], "logits": logits[2:], "labels": [1, 0]}
    >>> (pick,) = select(pool, validation, budget=1).picks
    >>> pick.id, pick.pseudo_label, pick.answers.label, pick.answers.predicted
    (3, '0', '0', '1')

    Args:
        pool: the unlabelled pool: a mapping of arrays (NumPy's, PyTorch's or JAX's), or
            files: features [N, d], the input of the network's last layer; logits
            [N, C], its output; and ids [N], if they are to be other than positions.
        validation: the same of the validation set, and labels [M].
        budget: B, how many to choose.
        strategy: one of `fkjax.outputs.SUFFICE`, or a strategy of one's own.
        labeled: ids of the pool that have a label already.
        classes: names of the classes, in the order of the logits.
        seed: of every random choice.
        tell: `tell(rows, total)` is called whenever rows of a large pool were read.

    Returns:
        The picks, each with its score, its pseudo-label, the validation mistake that it
        answers, and a sentence on why.

    Raises:
        UserError: if something is missing or does not fit.
    """
    if isinstance(strategy, str):
        check_name(strategy, STRATEGIES, "strategy")
        if strategy not in SUFFICE:
            raise UserError(
                f"{strategy} needs the network itself, not only its features and "
                f"logits: take one of {', '.join(SUFFICE)}, or give the model"
            )
    problem = problem_of_outputs(
        pool, validation, labeled=labeled, classes=classes, tell=tell
    )
    return choose(problem, budget=budget, strategy=strategy, seed=seed)


_files = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclasses.dataclass(frozen=True)
class Options:
    """Choose what to label next, and why.

    Takes what a network of any kind made of a pool and of a small validation set that
    looks like deployment. The picks are those whose Fisher vectors resemble those of
    the network's mistakes on the validation set; they are listed on the screen, and in
    --output with scores, assumed labels and reasons.
    """

    pool: Annotated[tuple[str, ...], _files] = ()
    """Of the pool: .npz, .safetensors or .parquet files with the arrays features
    [N, d], the input of the network's last layer, logits [N, C], its output, and
    perhaps ids [N]; or .npy files, each with one array, called so at the end of its
    name."""
    validation: Annotated[tuple[str, ...], _files] = ()
    """The same of the validation set, and labels [M]."""
    budget: int = 100
    """How many to choose."""
    strategy: str = "fisher_nearest"
    """One of random, margin, least_confidence, feature_match, fisher_argmax,
    fisher_nearest, fisher_nearest_joint."""
    labeled: Annotated[tuple[str, ...], _files] = ()
    """CSV files with a column id: what is labelled already, such as an earlier
    --output."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Names of the classes, in the order of the logits."""
    seed: int = 0
    """Of every random choice."""
    output: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """CSV file of the picks; one that this command wrote is replaced."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a file that this command did not write, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        argv: the arguments, without the program's name; `sys.argv` by default.

    Returns:
        0; 2 after a mistake that the user can mend, told in one sentence; 130 after
        Ctrl-C.
    """
    options = tyro.cli(Options, prog="python -m fkjax.select", args=argv)
    try:
        _run(options)
    except UserError as error:
        print(f"fkjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fkjax: interrupted.", file=sys.stderr)
        return 130
    return 0


def _run(options: Options) -> None:
    if not options.pool or not options.validation:
        raise UserError("give --pool and --validation, the files of both")
    output = None if options.output is None else Path(options.output)
    if output is not None and not options.overwrite:
        _refuse_other(output)
    labeled = [i for path in options.labeled for i in read_ids(Path(path))]
    with _reading_bar() as tell:
        selection = select(
            options.pool,
            options.validation,
            budget=options.budget,
            strategy=options.strategy,
            labeled=labeled,
            classes=options.classes or None,
            seed=options.seed,
            tell=tell,
        )
    _show(selection)
    if output is not None:
        replace_file(output, picks_csv(selection))
        print(f"Wrote {printable(str(output))}.")


def picks_csv(selection: Selection) -> bytes:
    """The picks as a CSV file."""
    rows: list[Sequence[Any]] = [COLUMNS]
    for pick in selection.picks:
        mistake = pick.answers
        answers = ("", "", "")
        if mistake is not None:
            answers = (str(mistake.id), mistake.label, mistake.predicted)
        rows.append(
            [
                pick.rank,
                inert(str(pick.id)),
                "" if pick.score is None else f"{pick.score:.6g}",
                inert(pick.pseudo_label or ""),
                *map(inert, answers),
                inert(pick.predicted),
                f"{pick.confidence:.6g}",
                inert(pick.reason),
            ]
        )
    return csv_bytes(rows)


def read_ids(path: Path) -> list[str]:
    """The column `id` of a CSV file.

    Raises:
        UserError: if the file cannot be read, or has no such column.
    """
    try:
        with explained("read", path), open_file(path) as file:
            lines = csv.DictReader(
                io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            )
            if "id" not in (lines.fieldnames or ()):
                raise UserError(f"{path} must be a CSV file with a column id")
            return [_as_it_was(line["id"] or "") for line in lines]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file ({error}); mend it") from error


def _as_it_was(cell: str) -> str:
    """What `fkjax.reporting.inert` was given."""
    return cell[1:] if cell.startswith("'") and inert(cell[1:]) == cell else cell


def _refuse_other(output: Path) -> None:
    """Refuses to replace a file that this command did not write."""
    with explained("read", output):
        if not output.exists():
            return
        with open_file(output) as file:
            head = file.readline(1000)
    if head != csv_bytes([COLUMNS]):
        raise UserError(
            f"{output} is there, and not of this command: choose another name, or add "
            "--overwrite"
        )


@contextlib.contextmanager
def _reading_bar() -> Iterator[Callable[[int, int], None]]:
    """Shows how many rows were read, on a terminal; what it yields is to be told."""
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.TextColumn("reading the pool"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not console.file.isatty() or console.is_dumb_terminal,
        transient=True,
    ) as bar:
        tasks: list[rich.progress.TaskID] = []

        def tell(rows: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task("reading", total=total))
            task = bar.tasks[0]
            again = task.completed + rows if task.completed < total else rows
            bar.update(tasks[0], completed=min(again, total))

        yield tell


def _show(selection: Selection) -> None:
    """The first picks, and how many answer which kind of mistake."""
    console = rich.console.Console()
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in ("", "id", "score", "assumed", "why"):
        table.add_column(name, justify="right" if name in ("", "score") else "left")
    for pick in selection.picks[:_SHOWN]:
        table.add_row(
            str(pick.rank),
            rich.text.Text(printable(str(pick.id))),
            "" if pick.score is None else f"{pick.score:.3g}",
            rich.text.Text(printable(pick.pseudo_label or "")),
            rich.text.Text(printable(pick.reason)),
        )
    console.print(table)
    more = len(selection.picks) - _SHOWN
    print(
        f"{len(selection.picks):,} of {selection.num_unlabeled:,} unlabelled examples, "
        f"by {selection.strategy}; the model gets {selection.is_mistake.sum():,} of "
        f"{len(selection.is_mistake):,} validation examples wrong."
        + (f" {more:,} more are in --output FILE." if more > 0 else "")
    )


class _Callable(types.ModuleType):
    """`fkjax.select` is this module, and called as its function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Selection:
        return select(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
