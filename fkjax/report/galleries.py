"""Images of queried examples and of the validation mistakes that they match."""

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fkjax.base import UserError
from fkjax.data import datasets
from fkjax.data.reading import plain_errors
from fkjax.files.opening import open_file
from fkjax.files.spreadsheet import inert
from fkjax.parallel.examples import take
from fkjax.report.comparison import ComparedStrategy, Comparison
from fkjax.report.html import thumbnail
from fkjax.runs.folder import QUERY_COLUMNS
from fkjax.runs.past_run import Run

PER_ROUND = 6
"""The number of queried examples shown of a round."""


class Example(NamedTuple):
    """One queried example.

    Attributes:
        image: PNG image as a data URI.
        label: label given by the oracle.
        pseudo_label: label assumed by the strategy before the query, or None.
        mistake: validation image that the example was matched to, as a data URI, or
            None.
        mistake_label: true class of that validation image, or None.
    """

    image: str
    label: int
    pseudo_label: int | None
    mistake: str | None
    mistake_label: int | None


class Strip(NamedTuple):
    """The first queried examples of one round.

    Attributes:
        round: round number.
        num_queries: number of examples queried in the round.
        examples: first examples in the order of the query; at most `PER_ROUND`.
    """

    round: int
    num_queries: int
    examples: list[Example]


class Gallery(NamedTuple):
    """Images of what one strategy queried with one seed.

    Attributes:
        name: name of the strategy.
        seed: lowest seed of the strategy.
        strips: first examples of the first, middle and last round; empty if there is a
            `reason`.
        reason: sentence on why no images are shown; empty if they are.
    """

    name: str
    seed: int
    strips: list[Strip]
    reason: str


class _Row(NamedTuple):
    """One row of queries.csv, of a given strategy and seed."""

    round: int
    id: int
    label: int
    pseudo_label: int | None
    target_id: int | None


def galleries(comparison: Comparison, *, data_dir: str | None = None) -> list[Gallery]:
    """Collects images of a few queried examples of each strategy.

    A strategy whose dataset cannot be read has a reason in place of images.

    Args:
        comparison: strategies compared.
        data_dir: data folder; the `data_dir` of each run if None.

    Raises:
        UserError: if a run's queries.csv is unreadable or damaged.
    """
    loaded: dict[Any, datasets.Dataset | UserError] = {}
    return [_gallery(s, data_dir, loaded) for s in comparison.strategies]


def _gallery(
    strategy: ComparedStrategy,
    data_dir: str | None,
    loaded: dict[Any, datasets.Dataset | UserError],
) -> Gallery:
    seed, records = next(iter(strategy.seeds.items()))
    run = next(
        run
        for run in strategy.experiment.runs
        if (strategy.original, seed) in run.tracks
    )
    # Round 0 of a run that trains on the validation set has no query.
    numbers = [r["round"] for r in records if any(r["queried_per_class"])]
    numbers = numbers or [record["round"] for record in records]
    shown = sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]})
    nothing = Gallery(strategy.name, seed, [], "")
    if run.config.get("images"):
        why = "The images of a labeling session are not read for a report."
        return nothing._replace(reason=why)
    rows = _read_rows(run, strategy.original, seed, shown)
    if not rows:
        why = f"{run.folder.path} has no queries.csv with their queries."
        return nothing._replace(reason=why)
    dataset = _load(run, data_dir, loaded)
    if isinstance(dataset, UserError):
        why = f"The dataset could not be read: {str(dataset).rstrip('.')}."
        return nothing._replace(reason=why)
    if not _is_of(rows, dataset, run):
        why = (
            f"The {dataset.name} data found do not match the queries in "
            f"{run.folder.path}: give their folder with --data-dir."
        )
        return nothing._replace(reason=why)
    try:
        strips = [_strip(rows, n, dataset) for n in sorted({r.round for r in rows})]
    except UserError as error:  # a damaged image
        return nothing._replace(reason=f"{str(error).rstrip('.')}.")
    return nothing._replace(strips=strips)


def _read_rows(
    run: Run, strategy: str, seed: int, rounds: Collection[int]
) -> list[_Row]:
    path = run.folder.path / "queries.csv"
    if not path.is_file():
        return []
    mine = [inert(strategy), str(seed)]
    rows = []
    try:
        with open_file(path) as file:
            lines = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
            if next(lines, []) != QUERY_COLUMNS:
                raise ValueError(f"its first line is not {','.join(QUERY_COLUMNS)}")
            for line in lines:
                if line[:2] == mine and int(line[2]) in rounds:
                    number, id_, label, pseudo_label, target_id = line[2:]
                    rest = [int(n) if n else None for n in (pseudo_label, target_id)]
                    rows.append(_Row(int(number), int(id_), int(label), *rest))
    except OSError as error:
        raise UserError(
            f"could not read {path}: {error.strerror or error}; fix the permissions"
        ) from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path} must list one queried example per line, but it is damaged "
            f"({error}): restore the file that the run wrote, or remove it"
        ) from error
    return rows


def _load(
    run: Run,
    data_dir: str | None,
    loaded: dict[Any, datasets.Dataset | UserError],
) -> datasets.Dataset | UserError:
    own = run.config.get("data_dir")
    size = run.config.get("image_size")
    place = data_dir or (own if isinstance(own, str) else None)
    key = (place, size)
    if key not in loaded:
        options: dict[str, Any] = {"image_size": size} if type(size) is int else {}
        if run.config.get("follow_links") is True:
            options["follow_links"] = True
        try:
            loaded[key] = datasets.load(
                run.config["dataset"], data_dir=place, may_prepare=False, **options
            )
        except UserError as error:
            loaded[key] = error
    return loaded[key]


def _is_of(rows: Sequence[_Row], dataset: datasets.Dataset, run: Run) -> bool:
    """Returns whether the queries match a dataset in size and labels."""
    ids = [n for row in rows for n in (row.id, row.target_id) if n is not None]
    if min(ids) < 0 or max(ids) >= len(dataset.train_labels):
        return False
    if run.config.get("label_noise"):
        return True
    labels = dataset.train_labels[[row.id for row in rows]]
    return labels.tolist() == [row.label for row in rows]


def _strip(rows: Iterable[_Row], number: int, dataset: datasets.Dataset) -> Strip:
    asked = [row for row in rows if row.round == number]
    first = asked[:PER_ROUND]
    ids = [n for row in first for n in (row.id, row.target_id) if n is not None]
    distinct = sorted(set(ids))
    with plain_errors(dataset.train_images):
        images = np.asarray(take(dataset.train_images, jnp.asarray(distinct)))
    pictures: dict[int | None, str] = {
        i: thumbnail(image) for i, image in zip(distinct, images, strict=True)
    }
    labels = {i: int(dataset.train_labels[i]) for i in distinct}
    examples = [
        Example(
            pictures[row.id],
            row.label,
            row.pseudo_label,
            pictures.get(row.target_id),
            None if row.target_id is None else labels[row.target_id],
        )
        for row in first
    ]
    return Strip(number, len(asked), examples)
