"""`fkjax select`: selection of examples to label, with reasons."""

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
from fkjax.base import UserError, check_name, key_for, printable, seed_key
from fkjax.commands.exit_status import exit_status, notify
from fkjax.data.columns import Tell
from fkjax.data.labeled_folder import read_own_images
from fkjax.experiment.presets import image_defaults
from fkjax.files.spreadsheet import csv_bytes
from fkjax.files.writing import check_replaceable, replace_file
from fkjax.label_shift import Shift, bias, part_of_pool
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
_SHOWN = 10  # picks printed
_LOOKED_AT = 100_000  # examples of the pool from which its bias is estimated


_file, _folder = tyro.conf.arg(metavar="FILE"), tyro.conf.arg(metavar="DIR")
_files = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclasses.dataclass(frozen=True)
class Options:
    """Choose the examples of a pool to label next.

    The examples are chosen by the mistakes of a model on a small validation set that
    resembles deployment. With --pool and --validation, the features and logits of any
    network are given. With --network, too, a Flax network is run on the examples. For
    a folder of images (--images and --labels), fkjax trains a model. The first picks
    are printed; --output writes all of them, with scores, assumed labels and reasons.
    """

    pool: Annotated[tuple[str, ...], _files] = ()
    """Files of the pool, .npz, .npy, .safetensors, .parquet,
    .arrow, .h5 or .zarr, with the arrays features [N, d],
    the input of the network's last layer, and logits
    [N, C], its output; or, with --network, images
    [N, ...]; optionally ids [N]. A .npy file contains a
    single array, whose name ends its file name. Shards
    are given as a folder, or as a pattern in quotes such
    as 'pool-*.npz'."""
    validation: Annotated[tuple[str, ...], _files] = ()
    """Files of the validation set with the same arrays, and labels [M]."""
    images: Annotated[str | None, _folder] = None
    """Folder of images; those that are not listed in LABELS form the pool."""
    labels: Annotated[str | None, _file] = None
    """CSV file of known labels with the columns file and
    label, and optionally set, which is validation (the
    default), train or test."""
    budget: int = 100
    """Number of examples to choose."""
    strategy: str = "fisher_nearest"
    """Strategy: random, margin, least_confidence,
    feature_match, fisher_argmax, fisher_nearest,
    fisher_nearest_joint, fisher_ratio, bait, logdet_mi,
    vtl, max_det, fisher_herding, class_need_margin,
    class_need_ratio, core_set, lcmd, flqmi, max_herding
    or badge; with --network or --images, any strategy
    of `fkjax run` except fisher_oracle and
    balance_oracle."""
    labeled: Annotated[tuple[str, ...], _files] = ()
    """CSV files with a column id that lists the labeled
    examples, such as an earlier --output."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Names of the classes, in the order of the logits;
    then, names of classes without a logit."""
    network: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")] = None
    """Flax NNX or Linen module, or function that makes it,
    as module and name in Python; its code is run."""
    checkpoint: Annotated[str | None, _folder] = None
    """Orbax checkpoint of the variables of NETWORK."""
    taps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER [LAYER ...]")] = ()
    """Layers of NETWORK whose activations form the
    descriptors; found automatically if not given."""
    image_size: int = 224
    """Height and width to which the images of IMAGES are resized."""
    follow_links: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Follow links that lead out of IMAGES, too, as those
    of Hugging Face and DVC do into their caches."""
    keep_copies: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Choose exact copies, too. By default, one of each is
    chosen, and no copy of a labeled or a validation
    example."""
    trained_on_validation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The network was trained on the validation set, too:
    refuse strategies by its mistakes there, and estimate
    no bias."""
    seed: int = 0
    """Seed of all random choices."""
    output: Annotated[str | None, _file] = None
    """CSV file of the picks to write; a file that this command wrote is replaced."""
    report: Annotated[str | None, _file] = None
    """HTML page to write: the picks with the mistakes that
    they match, their class balance, and the bias of the
    pool."""
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
        problem = dataclasses.replace(
            _problem(options, tell), trained_on_validation=options.trained_on_validation
        )
        selection = choose(
            problem,
            budget=options.budget,
            strategy=options.strategy,
            seed=options.seed,
        )
        outputs = _outputs(problem, options.seed) if "report" in paths else None
    files = {"output": picks_csv(selection)}
    if outputs is not None:
        shift, why = _shift(problem, *outputs, options.seed)
        page = selection_page.selection_page(
            problem, selection, shift, why_no_shift=why
        )
        files["report"] = page.encode("utf-8", "backslashreplace")
    _show(selection)
    for note in selection.notes:
        notify(note)
    for flag, path in paths.items():
        replace_file(path, files[flag])
        print(f"Wrote {printable(str(path))}.")


def _problem(options: Options, tell: Tell) -> Problem:
    given = {
        "--pool and --validation": bool(options.pool and options.validation),
        "--images and --labels": bool(options.images and options.labels),
    }
    if sum(given.values()) != 1:
        raise UserError(f"give either {' or '.join(given)}, both flags of the pair")
    options_of_arrays: dict[str, Any] = {
        "labeled": [i for path in options.labeled for i in read_ids(Path(path))],
        "classes": options.classes or None,
        "keep_copies": options.keep_copies,
        "tell": tell,
        "warn": notify,
    }
    if options.images is not None and options.labels is not None:
        return _problem_of_images(options, options.images, options.labels, tell)
    if options.network is None:
        require_sufficient(options.strategy)
        return problem_of_outputs(
            options.pool,
            options.validation,
            **options_of_arrays,
        )
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
                f"--{flag} cannot be used with --images: use --labels for all known "
                "labels"
            )
    if options.trained_on_validation:
        raise UserError(
            "--trained-on-validation cannot be used with --images, for which fkjax "
            "trains a model without the validation set: leave it out"
        )
    config = image_defaults(image_size=options.image_size)
    config = dataclasses.replace(config, seed=options.seed)
    own = read_own_images(
        folder,
        labels,
        image_size=options.image_size,
        follow_links=options.follow_links,
        tell=tell,
        notify=notify,
    )
    return problem_of_images(own, config, keep_copies=options.keep_copies, warn=notify)


def named(name: str) -> Any:
    """Imports a Flax module, or calls the function or class that makes it.

    Args:
        name: name in the form "package.module:name"; modules in the working folder are
            found, too.

    Raises:
        UserError: if the module cannot be imported or made.
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
    except Exception as error:  # anything that the user's code may raise
        raise UserError(
            f"--network {name} could not be made ({type(error).__name__}: {error}): "
            "fix it, or give another"
        ) from error
    finally:
        sys.path.pop(0)


def _outputs(problem: Problem, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities of the pool, or a random part of it, and of validation."""
    positions = np.flatnonzero(problem.is_unlabeled)
    if len(positions) > _LOOKED_AT:
        key = key_for(seed_key(seed), "part of the pool")
        chosen = jax.random.choice(key, len(positions), (_LOOKED_AT,), replace=False)
        positions = positions[np.sort(np.asarray(chosen))]
    part = part_of_pool(len(positions), len(problem.classes), seed=seed)
    positions = positions[part]
    of_pool = probabilities(problem, problem.pool[positions])
    return of_pool, probabilities(problem, problem.validation)


def _shift(
    problem: Problem, of_pool: np.ndarray, of_validation: np.ndarray, seed: int
) -> tuple[Shift | None, str]:
    """Estimates the bias of the pool, and shows the steps if stderr is a terminal.

    Returns:
        The estimate and an empty text; or None and sentences on why it is impossible,
        for example if the validation set lacks a class, and how often the model
        predicts such a class.
    """
    if problem.trained_on_validation:
        return None, (
            "The model was trained on the validation set, so that its predictions "
            "there do not show its errors in deployment."
        )
    try:
        with rich.console.Console(stderr=True).status("estimating the bias") as status:
            shift = bias(
                of_pool,
                of_validation,
                np.asarray(problem.classes)[problem.validation_labels],
                classes=problem.classes,
                seed=seed,
                tell=status.update,
            )
    except UserError as error:
        text = f"{str(error)[:1].upper()}{str(error)[1:]}."
        counts = np.bincount(problem.validation_labels, minlength=of_pool.shape[1])
        if (counts == 0).any():
            in_pool, in_validation = (
                f"{(counts[of.argmax(axis=1)] == 0).sum():,} of {len(of):,}"
                for of in (of_pool, of_validation)
            )
            text += (
                f" The model predicts these classes for {in_pool} unlabeled examples "
                f"of the pool, and for {in_validation} of the validation set."
            )
        return None, text
    return shift, ""


@contextlib.contextmanager
def reading_bar() -> Iterator[Tell]:
    """Shows a progress bar of rows read, if stderr is a terminal.

    Yields:
        A function `tell(rows, total)` that advances the bar.
    """
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
    """Prints the first picks and a summary."""
    console = rich.console.Console()
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in ("", "id", "score", "assumed", "reason"):
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
        f"{len(selection.picks):,} of {selection.num_unlabeled:,} unlabeled examples, "
        f"chosen by {selection.strategy}. The model misclassifies "
        f"{selection.is_mistake.sum():,} of {len(selection.is_mistake):,} validation "
        "examples."
        + (
            f" {more:,} more are not shown; --output FILE saves all."
            if more > 0
            else ""
        )
    )
