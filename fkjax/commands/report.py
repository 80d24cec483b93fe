"""`fkjax report`: comparison of finished or unfinished runs on one page."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from fkjax.base import UserError
from fkjax.commands.exit_status import exit_status
from fkjax.files.spreadsheet import csv_bytes
from fkjax.files.writing import check_replaceable, replace_file
from fkjax.report import comparison, export, run_page
from fkjax.report.analysis import Analysis, analyse
from fkjax.report.comparison import Comparison
from fkjax.report.galleries import galleries

_PAGE_MARK = '<meta name="generator" content="fkjax.report">'
_MARKS = {
    ".html": _PAGE_MARK.encode(),
    ".md": export.MARK.encode(),
    ".csv": csv_bytes([export.COLUMNS]),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare runs on one page of figures, tables and significance tests.

    The command reads the folders written by `fkjax run --output-dir DIR`, finished or
    not. The HTML page is a single file without scripts; .csv and .md files contain its
    numbers. Folders with equal settings are combined, for example one folder per seed;
    a strategy with other settings in another folder is kept apart. Pairs of strategies
    are compared on the seeds that both have. The same command writes the same bytes.
    """

    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")
    ]
    """Run folders, all of one dataset."""
    output: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")
    ] = ()
    """File to write, .html, .csv or .md; repeat the flag
    for several. report.html if not given. Files that
    this command wrote are replaced."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace files that this command did not write, too."""
    targets: Annotated[
        tuple[float, ...], tyro.conf.arg(metavar="PERCENT [PERCENT ...]")
    ] = ()
    """Accuracies for which to report the labels needed,
    such as 80 90; round accuracies that the curves
    reach if not given."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")] = ()
    """Seeds to use; all if not given."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the dataset, for images of the queries;
    that of the run or $FKJAX_DATA_DIR if not given."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        0 on success, 2 after an error of the user, 130 after Ctrl-C.
    """
    options = tyro.cli(Options, prog="fkjax report", args=argv)
    return exit_status(lambda: _report(options))


def _report(options: Options) -> None:
    for path in report(options):
        print(f"Wrote {path}.")


def report(options: Options) -> list[Path]:
    """Writes a report.

    Args:
        options: runs to compare, and files to write.

    Returns:
        The paths of the files written.

    Raises:
        UserError: if a folder, an option or an output file is invalid; then nothing is
            written.
    """
    for target in options.targets:
        if not (math.isfinite(target) and 0 < target <= 100):
            raise UserError(
                f"--targets must be percentages above 0 and up to 100, got {target:g}"
            )
    paths = [Path(name) for name in options.output or ("report.html",)]
    for path in paths:
        _check_output(path, overwrite=options.overwrite)
    compared = comparison.read(options.runs, seeds=options.seeds)
    found = analyse(compared, targets=sorted(set(options.targets)))
    write: dict[str, Callable[[], bytes]] = {
        ".html": lambda: _page(compared, found, options.data_dir),
        ".csv": lambda: export.to_csv(compared, found),
        ".md": lambda: export.to_markdown(compared, found),
    }
    files = [(path, write[path.suffix.lower()]()) for path in paths]
    for path, data in files:
        replace_file(path, data)
    return paths


def _page(compared: Comparison, found: Analysis, data_dir: str | None) -> bytes:
    pictures = galleries(compared, data_dir=data_dir)
    return run_page.render(compared, found, pictures).encode(
        "utf-8", "backslashreplace"
    )


def _check_output(path: Path, *, overwrite: bool) -> None:
    """Checks that a file can and may be written, before anything is computed."""
    mark = _MARKS.get(path.suffix.lower())
    if mark is None:
        raise UserError(f"--output must end in .html, .csv or .md, got {path}")
    check_replaceable(path, mark, flag="--output", overwrite=overwrite)
