"""A selection of examples to label, with its reasons, as one HTML page."""

import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fkjax.base import Examples
from fkjax.data.reading import plain_errors
from fkjax.label_shift import wording
from fkjax.label_shift.types import Shift
from fkjax.label_shift.wording import percent, times
from fkjax.parallel.examples import take
from fkjax.report import charts
from fkjax.report.html import environment, thumbnail
from fkjax.selection.choose import Selection, probabilities
from fkjax.selection.pick import Pick
from fkjax.selection.problem import Problem

MOST_CARDS = 60
"""The number of picks shown on a page at most."""

_MOST_CLASSES = 20  # in the chart
_SMALLEST = 4  # pixels: smaller examples are not shown as images


class Card(NamedTuple):
    """A pick as shown on the page.

    Attributes:
        pick: example picked.
        image: image of the example as a data URI; None if it is not an image.
        mistake: image of the validation mistake that the pick was matched to; None if
            there is none.
    """

    pick: Pick
    image: str | None
    mistake: str | None


class Kind(NamedTuple):
    """A kind of mistake: a true class and the class predicted in its place.

    Attributes:
        label: true class.
        predicted: class predicted by the model.
        num_mistakes: number of such mistakes on the validation set.
        num_picks: number of picks matched to one of them.
    """

    label: str
    predicted: str
    num_mistakes: int
    num_picks: int


def selection_page(
    problem: Problem,
    selection: Selection,
    shift: Shift | None,
    *,
    title: str = "What to label next",
    why_no_shift: str = "",
    labeled_counts: Sequence[int] | None = None,
) -> str:
    """Renders the page, which has no scripts and needs no external files.

    Args:
        problem: pool, validation set and model of the selection.
        selection: examples picked.
        shift: estimated class balance of the pool; None if it was not estimated.
        title: heading of the page.
        why_no_shift: sentence on why the class balance was not estimated.
        labeled_counts: number of examples of each class that are already labeled; None
            if unknown. Length C.

    Returns:
        The HTML of the page, in which every name and sentence is escaped.

    Raises:
        UserError: if the image of a pick cannot be read.
    """
    cards = _cards(problem, selection)
    chart, chart_note = _balances(problem, selection, shift, labeled_counts)
    return (
        environment()
        .get_template("selection.html.jinja")
        .render(
            title=title,
            selection=selection,
            num_pool=len(problem.pool_ids),
            classes=problem.classes,
            is_trained=problem.is_trained,
            cards=cards,
            is_small=max(problem.pool.shape[1:3]) < 72,
            chart=chart,
            chart_note=chart_note,
            shift=shift,
            why_no_shift=why_no_shift,
            estimates=_estimates(shift) if shift is not None else [],
            are_sorted=shift is not None and len(shift.classes) > _MOST_CLASSES,
            gaps=_gaps(shift) if shift is not None else [],
            kinds=_kinds(problem, selection),
            assumption=wording.ASSUMPTION,
            breaks=wording.BREAKS,
            percent=percent,
            times=times,
            version=importlib.metadata.version("fkjax"),
        )
    )


def _cards(problem: Problem, selection: Selection) -> list[Card]:
    picks = selection.picks[:MOST_CARDS]
    if not (is_picture(problem.pool) and is_picture(problem.validation)):
        return [Card(pick, None, None) for pick in picks]
    indices, targets = (
        np.asarray(of)[: len(picks)] for of in (selection.indices, selection.targets)
    )
    answered = np.unique(targets[targets >= 0])
    images = _read(problem.pool, indices)
    mistakes = _read(problem.validation, answered)
    images, mistakes = _as_bytes(images, mistakes)
    of_target = dict(zip(answered.tolist(), map(thumbnail, mistakes), strict=True))
    return [
        Card(pick, thumbnail(image), of_target.get(int(target)))
        for pick, image, target in zip(picks, images, targets, strict=True)
    ]


def is_picture(images: Examples) -> bool:
    """Returns whether examples have the shape of gray or color images.

    >>> is_picture(np.zeros((5, 28, 28, 1))), is_picture(np.zeros((5, 1, 1, 700)))
    (True, False)

    Args:
        images: examples. Shape [N, H, W, channels].
    """
    _, height, width, channels = images.shape
    return min(height, width) >= _SMALLEST and channels in (1, 3, 4)


def _read(images: Examples, indices: np.ndarray) -> np.ndarray:
    if len(indices) == 0:
        return np.zeros((0, *images.shape[1:]), np.uint8)
    with plain_errors(images):
        return np.asarray(take(images, jnp.asarray(indices)))


def _as_bytes(*several: np.ndarray) -> list[np.ndarray]:
    """Converts images to uint8; others are scaled by their common range."""
    if all(images.dtype == np.uint8 for images in several):
        return list(several)
    parts = [images.astype(float) for images in several if images.size]
    low, high = min(p.min() for p in parts), max(p.max() for p in parts)
    scale = 255 / (high - low) if high > low else 0.0
    return [((i.astype(float) - low) * scale).astype(np.uint8) for i in several]


def _balances(
    problem: Problem,
    selection: Selection,
    shift: Shift | None,
    labeled_counts: Sequence[int] | None,
) -> tuple[Any, str]:
    """Returns the chart of class shares and a note on how picks are counted."""
    num_classes = len(problem.classes)
    is_assumed = [pick.pseudo_label is not None for pick in selection.picks]
    picks = np.zeros(num_classes)
    number = {name: y for y, name in enumerate(problem.classes)}
    for pick in selection.picks:
        label = pick.predicted if pick.pseudo_label is None else pick.pseudo_label
        picks[number[label]] += 1
    if all(is_assumed):
        note = "Picks are counted by the class that the strategy assumed for them."
    elif any(is_assumed):
        note = (
            "Picks are counted by the class that the strategy assumed for them or, if "
            "it assumed none, by the model's prediction."
        )
    else:
        note = (
            "Picks are counted by the model's prediction, because the strategy assumed "
            "no class."
        )
    validation = np.bincount(problem.validation_labels, minlength=num_classes)
    balances = [charts.Balance("these picks", picks / picks.sum())]
    if labeled_counts is not None and sum(labeled_counts):
        shares = np.asarray(labeled_counts, float) / sum(labeled_counts)
        balances.append(charts.Balance("already labeled", shares))
    balances.append(charts.Balance("validation set", validation / validation.sum()))
    if shift is not None and shift.best:
        pool = shift.pool
        interval = np.stack([pool.low, pool.high])
        balances.append(
            charts.Balance("pool, estimated, with 95 % interval", pool.value, interval)
        )
    shown = np.arange(num_classes)
    if num_classes > _MOST_CLASSES:
        shown = np.sort(np.argsort(-picks, kind="stable")[:_MOST_CLASSES])
        note += f" Of {num_classes} classes, the {_MOST_CLASSES} with the most picks "
        note += "are shown."
    balances = [
        charts.Balance(
            name, shares[shown], None if interval is None else interval[:, shown]
        )
        for name, shares, interval in balances
    ]
    chart = charts.class_balances(
        [problem.classes[y] for y in shown.tolist()],
        balances,
        title="Class shares of the picks, the validation set and the pool",
    )
    return chart, note


def _estimates(shift: Shift) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns for each class its name and cells, each a number and its interval.

    Of many classes, those with the largest bias come first.
    """
    rows = []
    order = np.arange(len(shift.classes))
    if len(shift.classes) > _MOST_CLASSES:
        bias = np.abs(shift.pool.value - shift.validation.value)
        order = np.argsort(-np.nan_to_num(bias, nan=-1), kind="stable")
    for y in order.tolist():
        name = shift.classes[y]
        cells = [
            (form(s.value[y]), _range(form(s.low[y]), form(s.high[y])))
            for s, form in (
                (shift.validation, percent),
                (shift.bbse, percent),
                (shift.em, percent),
                (shift.ratio, times),
            )
        ]
        rows.append((name, cells))
    return rows


def _gaps(shift: Shift) -> list[str]:
    """Returns a sentence on each estimate that does not determine every class."""
    texts = []
    for name, shares, problem in (
        ("BBSE", shift.bbse, shift.bbse_problem),
        ("EM", shift.em, shift.em_problem),
    ):
        unknown, num = int(np.isnan(shares.value).sum()), len(shift.classes)
        part = f" for {unknown:,} of {num:,} classes" if unknown < num else ""
        if problem:
            texts.append(f"{name} is not determined{part}: {problem}.")
    return texts


def _range(low: str, high: str) -> str:
    return "" if "–" in (low, high) else f"{low.removesuffix(' %')} to {high}"


def _kinds(problem: Problem, selection: Selection) -> list[Kind]:
    """Returns the kinds of mistakes, those matched by the most picks first."""
    mistakes = np.flatnonzero(selection.is_mistake)
    predicted = probabilities(problem, problem.validation[mistakes])
    pairs = {
        int(i): (
            problem.classes[int(problem.validation_labels[i])],
            problem.classes[int(y)],
        )
        for i, y in zip(mistakes, predicted.argmax(axis=1), strict=True)
    }
    num_mistakes = Counter(pairs.values())
    targets = np.asarray(selection.targets)
    # A user's own strategy may name a validation example that is not a mistake.
    num_picks = Counter(pairs[int(i)] for i in targets if int(i) in pairs)
    kinds = [
        Kind(label, wrong, num, num_picks[label, wrong])
        for (label, wrong), num in num_mistakes.items()
    ]
    return sorted(kinds, key=lambda k: (-k.num_picks, -k.num_mistakes))
