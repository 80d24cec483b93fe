"""What strategies asked for, as pictures: queries, and the mistakes they answer."""

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
from fkjax.report.comparison import Comparison, Strategy
from fkjax.report.html import thumbnail
from fkjax.runs.folder import QUERY_COLUMNS
from fkjax.runs.past_run import Run

PER_ROUND = 6


class Example(NamedTuple):
    """One query.

    Attributes:
        image: a PNG file as a data URI.
        label: what the oracle said.
        pseudo_label: what was assumed before, or None.
        mistake: the validation image that it answers, likewise, or None.
        mistake_label: the true class of that image, or None.
    """

    image: str
    label: int
    pseudo_label: int | None
    mistake: str | None
    mistake_label: int | None


class Strip(NamedTuple):
    """The first queries of one round.

    Attributes:
        round: its number.
        num_queries: in the whole round.
        examples: in the order in which they were asked for; at most `PER_ROUND`.
    """

    round: int
    num_queries: int
    examples: list[Example]


class Gallery(NamedTuple):
    """What one strategy asked for with one seed.

    Attributes:
        name: of the strategy.
        seed: its lowest.
        strips: of its first, middle and last round; none if there is a reason.
        reason: a sentence on why nothing is shown, or nothing.
    """

    name: str
    seed: int
    strips: list[Strip]
    reason: str


class _Row(NamedTuple):
    """A line of queries.csv, of one strategy and seed."""

    round: int
    id: int
    label: int
    pseudo_label: int | None
    target_id: int | None


def galleries(comparison: Comparison, *, data_dir: str | None = None) -> list[Gallery]:
    """Shows a few queries of each strategy, where its data set is to be had.

    Args:
        comparison: what is compared.
        data_dir: the data folder; each run's own if None.

    Raises:
        UserError: if a run's queries.csv is damaged.
    """
    loaded: dict[Any, datasets.Dataset | UserError] = {}
    return [_gallery(s, data_dir, loaded) for s in comparison.strategies]


def _gallery(
    strategy: Strategy,
    data_dir: str | None,
    loaded: dict[Any, datasets.Dataset | UserError],
) -> Gallery:
    seed, records = next(iter(strategy.seeds.items()))
    run = next(
        run
        for run in strategy.experiment.runs
        if (strategy.original, seed) in run.tracks
    )
    numbers = [record["round"] for record in records]
    shown = sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]})
    rows = _read_rows(run, strategy.original, seed, shown)
    nothing = Gallery(strategy.name, seed, [], "")
    if not rows:
        why = f"{run.folder.path} has no queries.csv that lists them."
        return nothing._replace(reason=why)
    dataset = _load(run, data_dir, loaded)
    if isinstance(dataset, UserError):
        why = f"The data set could not be read: {str(dataset).rstrip('.')}."
        return nothing._replace(reason=why)
    if not _is_of(rows, dataset, run):
        why = (
            f"The {dataset.name} found is not the one that {run.folder.path} was made "
            "with: name its folder with --data-dir."
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
            f"Could not read {path}: {error.strerror or error}; mend the permissions."
        ) from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"The file {path} must list a query on each line, but it is damaged "
            f"({error}): put back the file that the run wrote, or move it away."
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
        options = {"image_size": size} if isinstance(size, int) else {}
        try:
            loaded[key] = datasets.load(
                run.config["dataset"], data_dir=place, may_prepare=False, **options
            )
        except UserError as error:
            loaded[key] = error
    return loaded[key]


def _is_of(rows: Sequence[_Row], dataset: datasets.Dataset, run: Run) -> bool:
    """Whether the queries can be of a data set: by its size, and its labels."""
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
