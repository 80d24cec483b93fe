"""Reproduces a figure of the paper: `python -m benchmarks.reproduce --figure NAME`.

Executes the runs that are missing in `--runs-dir`, seed by seed, then writes a table,
which includes the values of the paper, and pictures to `--results-dir`. If the command
is repeated, interrupted runs are resumed and finished runs are read.
"""

import dataclasses
import datetime
import itertools
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import tyro

from benchmarks import paper, pictures
from benchmarks.runs import Part, records_of
from fkjax.base import UserError
from fkjax.report import curves as curves_module
from fkjax.report import figures

Records = list[dict[str, Any]]
Reference = dict[str, dict[int, float]]
Pictures = Callable[[Records, Path, str], list[tuple[str, str]]]
"""`pictures(records, folder, name)`: writes files, returns their captions and names."""

L20 = ("feature_match", "fisher_argmax", "fisher_nearest", "fisher_oracle")
L80 = ("random", "fisher_nearest", "fisher_oracle")
MATCHING = ("feature_match", "fisher_argmax", "fisher_nearest")
ESTIMATORS = ("fisher_covariance", "fisher_information")


class Figure(NamedTuple):
    """The contents of a figure.

    Attributes:
        title: heading of the page.
        parts: the runs of the figure.
        reference: curves of the paper, by column.
        seeds: default number of seeds.
        draw: function that draws the pictures.
        facts: function that returns the text below the table, in Markdown.
    """

    title: str
    parts: tuple[Part, ...]
    reference: Reference
    seeds: int
    draw: Pictures
    facts: Callable[[Records, Reference], list[str]] = lambda records, reference: []


def _named(strategies: Sequence[str], length: int, note: str = "") -> dict[str, str]:
    """Returns the columns of strategies; all but random have descriptors."""
    return {s: (s if s == "random" else f"{s} L{length}") + note for s in strategies}


def _curves(records: Records, folder: Path, name: str) -> list[tuple[str, str]]:
    figure = FIGURES[name]
    records = [r for r in records if not r["strategy"].endswith(MEMBER)]
    shown = {r["strategy"] for r in records}
    reference = {
        column: (list(curve), list(curve.values()))
        for column, curve in figure.reference.items()
        if column in shown
    }
    path = folder / f"{name}.png"
    figures.draw_learning_curve(records, path, title=figure.title, reference=reference)
    return [("Learning curves", path.name)]


TARGETS = (60, 70, 80, 90, 93)
RARE = (5, 8, 9)


def _labels_needed(records: Records, reference: Reference) -> list[str]:
    """Returns a table of the number of labels at which curves reach an accuracy."""
    rows = [["labels to reach", *(f"{t} %" for t in TARGETS)]]
    rows.append(["---", *["---:"] * len(TARGETS)])
    for name, curve in curves_module.learning_curves(records).items():
        points = {"": dict(zip(curve.num_labeled, 100 * curve.mean, strict=True))}
        if name in reference:
            points["*paper*"] = reference[name]
        for label, line in points.items():
            line = dict(sorted(line.items()))
            needed = (
                curves_module.labels_to_reach(line, line.values(), t) for t in TARGETS
            )
            shown = ("–" if n is None else f"{n:,.0f}" for n in needed)
            cells = (f"*{n}*" if label and n != "–" else n for n in shown)
            rows.append([label or name, *cells])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return ["Interpolated linearly between the points of the curves:\n", table]


def _facts_100x(records: Records, reference: Reference) -> list[str]:
    lines = []
    for name in CONFUSED:
        by_class = [
            r["class_accuracy"]
            for r in records
            if r["strategy"] == name and r["num_labeled"] == 500
        ]
        if by_class:
            rare = [100 * a[c] for a in by_class for c in RARE]
            mean, paper_mean = sum(rare) / len(rare), paper.RARE_AT_500[name]
            lines.append(f"- `{name}`: {mean:.0f} % (*paper* {paper_mean})\n")
    head = "Mean accuracy of the classes 5, 8 and 9 at 500 labels:\n"
    return [*_labels_needed(records, reference), head, "".join(lines)]


CONFUSED = ("variation_ratio E1", "fisher_nearest L80", "fisher_oracle L20")


def _curves_and_confusion(
    records: Records, folder: Path, name: str
) -> list[tuple[str, str]]:
    made = _curves(records, folder, name)
    early = [
        r for r in records if r["strategy"] in CONFUSED and r["num_labeled"] <= 500
    ]
    early.sort(key=lambda r: CONFUSED.index(r["strategy"]))
    if early:
        path = folder / f"{name}-confusion.png"
        figures.draw_confusion(early, path)
        made.append(("Confusion at 500 labels, summed over seeds", path.name))
    return made


def _of_size(size: int) -> list[Part]:
    """Returns the runs with a validation set of one size."""
    folder, own = f"validation-size/{size}", {"validation_size": size}

    def columns(*strategies: str, note: str = "") -> dict[str, str]:
        return {s: f"{s}{note}, {size:,}" for s in strategies}

    parts = [
        Part(folder, columns("random", *MATCHING), own),
        Part(
            f"{folder}-trained",
            {"random": f"{pictures.TRAINED}, {size:,}"},
            own | {"validation_role": "train"},
        ),
        Part(
            f"{folder}-more",
            columns("margin", "fisher_nearest_joint", "fisher_oracle"),
            own,
        ),
    ]
    if size <= 100:  # a random share is for small validation sets
        half = columns(*MATCHING, note=" half random")
        parts.append(Part(f"{folder}-half-random", half, own | {"random_share": 0.5}))
    return parts


FIGURES = {
    "mnist-100x": Figure(
        "MNIST, step imbalance 100x",
        (
            Part("mnist-100x/L80", _named(L80, 80)),
            Part("mnist-100x/L20", _named(L20, 20), {"taps": ("conv2",)}),
            Part("mnist-100x/varR", {"variation_ratio": "variation_ratio E1"}),
            Part("mnist-100x/vaal", {"vaal": "vaal"}),
            Part(
                "mnist-100x/E4",
                {"variation_ratio": "variation_ratio E4"},
                {"ensemble": 4, "passes": 32},
            ),
        ),
        paper.MNIST_100X,
        5,
        _curves_and_confusion,
        _facts_100x,
    ),
    "mnist-1x": Figure(
        "MNIST, no imbalance",
        (
            Part(
                "mnist-1x/L80",
                _named(("random", "fisher_nearest"), 80),
                {"imbalance_ratio": 1.0},
            ),
            Part(
                "mnist-1x/E4",
                {"variation_ratio": "variation_ratio E4"},
                {"imbalance_ratio": 1.0, "ensemble": 4, "passes": 32},
            ),
        ),
        paper.MNIST_1X,
        3,
        _curves,
        _labels_needed,
    ),
    "mnist-ablation": Figure(
        "MNIST, 100x: ablations",
        (
            Part("mnist-100x/L80", _named(L80, 80)),
            Part("mnist-100x/L20", _named(L20, 20), {"taps": ("conv2",)}),
            Part(
                "mnist-100x/no-pretraining",
                _named(("random", "fisher_nearest"), 80, ", no pretraining"),
                {"pretraining": "none"},
            ),
            Part(
                "mnist-100x/best-test-epoch",
                _named(("fisher_nearest",), 80, ", best test epoch"),
                {"checkpoint_selection": "test"},
            ),
            *(
                Part(f"mnist-100x/{name}", _named((name,), 20), {"taps": ("conv2",)}, 1)
                for name in ESTIMATORS  # by far the most expensive
            ),
        ),
        paper.MNIST_100X,
        5,
        _curves,
    ),
    "validation-size": Figure(
        "MNIST, step imbalance 100x: the size of the validation set",
        tuple(itertools.chain(*map(_of_size, pictures.VALIDATION_SIZES))),
        {},
        3,
        pictures.draw_validation_sizes,
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Reproduces a figure of the paper on MNIST."""

    figure: Literal["mnist-100x", "mnist-1x", "mnist-ablation", "validation-size"] = (
        "mnist-100x"
    )
    """The figure: the curves at 100x or 1x imbalance; the ablations of the paper; or
    every strategy over the size of the validation set, which is not in the paper."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that contains mnist/*-ubyte[.gz]; by default $FKJAX_DATA_DIR."""
    runs_dir: str = "docs/results/runs"
    """Folder of the runs. Finished runs, including committed ones, are reused."""
    results_dir: str = "docs/results"
    """Folder of FIGURE.md and its pictures."""
    seeds: int | None = None
    """Number of seeds of every column; by default 5 at 100x, otherwise 3."""
    seed: int = 6
    """The first seed. Dropout and initialization were chosen on seeds 0 to 5."""
    draw_only: bool = False
    """Do not run anything; show the columns and seeds that are finished."""


def main() -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.reproduce")
    figure = FIGURES[options.figure]
    seeds = range(options.seed, options.seed + (options.seeds or figure.seeds))
    try:
        records = list(
            records_of(
                figure.parts,
                seeds,
                runs_dir=options.runs_dir,
                data_dir=options.data_dir,
                draw_only=options.draw_only,
            )
        )
        if not records:
            raise UserError(
                f"{options.runs_dir} contains no finished run of this figure: leave "
                "out --draw-only"
            )
        results = Path(options.results_dir)
        results.mkdir(parents=True, exist_ok=True)
        records = _in_order(figure, [*records, *_members(records)])
        made = figure.draw(records, results, options.figure)
    except UserError as error:
        print(f"benchmarks.reproduce: {error}", file=sys.stderr)
        return 2
    text = "\n".join(
        [
            f"# {figure.title}\n",
            f"Made by `python -m benchmarks.reproduce --figure {options.figure} "
            "--data-dir DIR`. How to read it: [README.md](README.md).\n",
            f"{_stamp()}, seeds from {options.seed}; test accuracy in percent of the "
            "last epoch unless stated otherwise, mean ± standard deviation over seeds; "
            "*in italics* the values of the paper, read off its plots by eye to about "
            "one point, of the epoch that was best on the test set.\n",
            *(f"![{caption}]({file})\n" for caption, file in made),
            table(records, figure.reference),
            *figure.facts(records, figure.reference),
        ]
    )
    (results / f"{options.figure}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


MEMBER = ", a member"


def _members(records: Records) -> Records:
    """Returns records of the mean accuracy of the members of ensembles."""
    return [
        r
        | {
            "strategy": r["strategy"] + MEMBER,
            "test_accuracy": sum(r["member_accuracy"]) / len(r["member_accuracy"]),
        }
        for r in records
        if "member_accuracy" in r
    ]


def _in_order(figure: Figure, records: Records) -> Records:
    columns = [column for part in figure.parts for column in part.columns.values()]
    columns += [column + MEMBER for column in columns]
    return sorted(records, key=lambda r: columns.index(r["strategy"]))


def table(records: Records, reference: Reference) -> str:
    """Returns a table with the values of fkjax and, below each, those of the paper."""
    curves = curves_module.learning_curves(records)
    labels = sorted({n for c in curves.values() for n in c.num_labeled.tolist()})
    header = ["", "seeds", *(f"{n:,}" for n in labels)]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, curve in curves.items():
        points = {
            n: f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std == std else "")
            for n, mean, std in zip(
                curve.num_labeled.tolist(), curve.mean, curve.std, strict=True
            )
        }
        num_seeds = str(len(curve.accuracy))
        rows.append([name, num_seeds, *(points.get(n, "–") for n in labels)])
        if name in reference:
            paper_row = [reference[name].get(n) for n in labels]
            shown = ("" if v is None else f"*{v:.1f}*" for v in paper_row)
            rows.append(["*paper*", "", *shown])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _stamp() -> str:
    today = datetime.date.today().isoformat()
    return (
        f"{today}, jax {jax.__version__}, Python {platform.python_version()}, "
        f"{jax.default_backend()}"
    )


if __name__ == "__main__":
    sys.exit(main())
