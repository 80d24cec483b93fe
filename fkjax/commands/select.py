"""What to label next: `fkjax.select(...)`, and `python -m fkjax.select`.

The module may be called like the function `select` in it.
"""

import contextlib
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text
import tyro

from fkjax.acquisition import STRATEGIES
from fkjax.base import UserError, check_name, key_for, printable
from fkjax.commands.exit_status import exit_status
from fkjax.data.columns import Tell
from fkjax.data.labeled_folder import read_own_images
from fkjax.experiment.presets import image_defaults
from fkjax.files.spreadsheet import csv_bytes
from fkjax.files.writing import check_replaceable, replace_file
from fkjax.label_shift import Shift, bias
from fkjax.labeling.own_model import problem_of_images
from fkjax.models import restore_variables
from fkjax.report import selection_page
from fkjax.selection.choose import Selection, choose, probabilities
from fkjax.selection.from_network import problem_of_network
from fkjax.selection.from_outputs import problem_of_outputs
from fkjax.selection.picks import COLUMNS, picks_csv, read_ids
from fkjax.selection.problem import Problem
from fkjax.selection.select import require_sufficient

_PAGE_MARK = '<meta name="generator" content="fkjax.select">'
_SHOWN = 10  # picks on the screen
_LOOKED_AT = 100_000  # examples of the pool by which its bias is estimated


_file, _folder = tyro.conf.arg(metavar="FILE"), tyro.conf.arg(metavar="DIR")
_files = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclasses.dataclass(frozen=True)
class Options:
    """Choose what to label next, and why.

    From what a network of any kind made of a pool and of a small validation set that
    looks like deployment (--pool, --validation); by a Flax network, which is run on
    both (and --network); or from a folder of images, on which fkjax trains a model of
    its own (--images, --labels). The picks are those that resemble the model's
    mistakes on the validation set; they are listed on the screen, and in --output with
    scores, assumed labels and reasons.
    """

    pool: Annotated[tuple[str, ...], _files] = ()
    """Of the pool: .npz, .safetensors or .parquet files with the arrays features
    [N, d], the input of the network's last layer, and logits [N, C], its output; or,
    with --network, images [N, ...]; and perhaps ids [N]. A .npy file has one array,
    called so at the end of its name."""
    validation: Annotated[tuple[str, ...], _files] = ()
    """The same of the validation set, and labels [M]."""
    images: Annotated[str | None, _folder] = None
    """Folder of images; those that LABELS does not name are the pool."""
    labels: Annotated[str | None, _file] = None
    """CSV file of the labels that are known, with the columns file and label, and
    perhaps set: validation (if not given), train or test."""
    budget: int = 100
    """How many to choose."""
    strategy: str = "fisher_nearest"
    """Of random, margin, least_confidence, feature_match, fisher_argmax,
    fisher_nearest, fisher_nearest_joint; and, where there is a network, of all that
    fkjax.run has but fisher_oracle."""
    labeled: Annotated[tuple[str, ...], _files] = ()
    """CSV files with a column id: what is labelled already, such as an earlier
    --output."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Names of the classes, in the order of the logits."""
    network: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")] = None
    """Python's name of a Flax NNX or Linen module, or of a function that makes it; the
    code is run."""
    checkpoint: Annotated[str | None, _folder] = None
    """Orbax checkpoint of its variables."""
    taps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER [LAYER ...]")] = ()
    """Layers of the network to describe examples by; found if not given."""
    image_size: int = 224
    """Height and width to which IMAGES are resized."""
    seed: int = 0
    """Of every random choice."""
    output: Annotated[str | None, _file] = None
    """CSV file of the picks; one that this command wrote is replaced."""
    report: Annotated[str | None, _file] = None
    """HTML page of the picks beside the mistakes that they answer, the classes that
    they would bring, and how biased the pool is."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace files that this command did not write, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
        argv: the arguments; those of the process if None.

    Returns:
        0 on success, 2 after an error of the user, 130 after Ctrl-C.
    """
    options = tyro.cli(Options, prog="fkjax select", args=argv)
    return exit_status(lambda: _run(options))


def _run(options: Options) -> None:
    marks = {"output": csv_bytes([COLUMNS]), "report": _PAGE_MARK.encode()}
    paths = {
        flag: Path(getattr(options, flag)) for flag in marks if getattr(options, flag)
    }
    for flag, path in paths.items():
        check_replaceable(
            path, marks[flag], flag=f"--{flag}", overwrite=options.overwrite
        )
    check_name(options.strategy, STRATEGIES, "strategy")
    with reading_bar() as tell:
        problem = _problem(options, tell)
        selection = choose(
            problem,
            budget=options.budget,
            strategy=options.strategy,
            seed=options.seed,
        )
        files = {}
        if "report" in paths:
            shift, why = _shift(problem, options.seed)
            page = selection_page.selection_page(
                problem, selection, shift, why_no_shift=why
            )
            files["report"] = page.encode("utf-8", "backslashreplace")
    files["output"] = picks_csv(selection)
    _show(selection)
    for flag, path in paths.items():
        replace_file(path, files[flag])
        print(f"Wrote {printable(str(path))}.")


def _problem(options: Options, tell: Tell) -> Problem:
    given = {
        "--pool and --validation": bool(options.pool and options.validation),
        "--images and --labels": bool(options.images and options.labels),
    }
    if sum(given.values()) != 1:
        raise UserError(f"give either {' or '.join(given)}, and both of the two")
    options_of_arrays: dict[str, Any] = {
        "labeled": [i for path in options.labeled for i in read_ids(Path(path))],
        "classes": options.classes or None,
        "tell": tell,
    }
    if options.images is not None and options.labels is not None:
        return _problem_of_images(options, options.images, options.labels, tell)
    if options.network is None:
        require_sufficient(options.strategy)
        return problem_of_outputs(options.pool, options.validation, **options_of_arrays)
    network = named(options.network)
    variables = None
    if options.checkpoint is not None:
        variables = restore_variables(options.checkpoint, like=network)
    return problem_of_network(
        options.pool,
        options.validation,
        network,
        variables,
        taps=options.taps or None,
        **options_of_arrays,
    )


def _problem_of_images(
    options: Options, folder: str, labels: str, tell: Tell
) -> Problem:
    for flag in ("labeled", "classes", "network", "checkpoint", "taps"):
        if getattr(options, flag):
            raise UserError(
                f"--{flag} does not go with --images, where --labels tells all that is "
                "known: leave it out"
            )
    config = image_defaults(image_size=options.image_size)
    config = dataclasses.replace(config, seed=options.seed)
    own = read_own_images(folder, labels, image_size=options.image_size, tell=tell)
    return problem_of_images(own, config)


def named(name: str) -> Any:
    """The Flax module that a Python name stands for, or that it makes.

    Args:
        name: "package.module:name"; modules in the working folder are found, too.

    Raises:
        UserError: if there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"--network takes MODULE:NAME, such as net:Net, got {name}")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
        is_maker = inspect.isroutine(found) or inspect.isclass(found)
        return found() if is_maker else found
    except UserError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"--network {name} could not be made ({type(error).__name__}: {error}): "
            "mend it, or name another"
        ) from error
    finally:
        sys.path.pop(0)


def _shift(problem: Problem, seed: int) -> tuple[Shift | None, str]:
    """How biased the pool is, by a part of it if it is large; or why that is unknown.

    A page without it is better than none: all classes must be in the validation set.
    """
    positions = np.flatnonzero(problem.is_unlabeled)
    if len(positions) > _LOOKED_AT:
        key = key_for(jax.random.key(seed), "part of the pool")
        chosen = jax.random.choice(key, len(positions), (_LOOKED_AT,), replace=False)
        positions = positions[np.sort(np.asarray(chosen))]
    of_pool = probabilities(problem, problem.pool[positions])
    of_validation = probabilities(problem, problem.validation)
    try:
        shift = bias(
            of_pool,
            of_validation,
            problem.validation_labels,
            classes=problem.classes,
            seed=seed,
        )
    except UserError as error:
        text = str(error)
        return None, f"{text[:1].upper()}{text[1:]}."
    return shift, ""


@contextlib.contextmanager
def reading_bar() -> Iterator[Tell]:
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
