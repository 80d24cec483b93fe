"""What a run leaves behind: its folder, its tables, its figures, its progress bar.

A record is one round of one run, a plain dict: dataset, strategy, seed, round,
num_labeled, test_accuracy, balanced_accuracy, class_accuracy [C], queried_per_class
[C], confusion [C, C] (rows are the true class), checkpoint_selection,
num_random_filled, num_mistakes and seconds (by phase). Accuracies are fractions.
Where a (strategy, seed, round) comes twice, the later record counts.
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table

from fkjax.base import UserError

Record = Mapping[str, Any]
Reference = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Published curves: name -> (numbers of labels, test accuracies in percent)."""

QUERY_COLUMNS = (
    "strategy",
    "seed",
    "round",
    "id",
    "label",
    "pseudo_label",
    "target_id",
)

# Okabe and Ito's colours without the yellow, then three of Tol's "muted".
_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288"),
)
_MARKERS = "os^DvPX<>p"
_GRAYS = ("#555555", "#8a8a8a", "#b0b0b0")


class RunFolder(NamedTuple):
    """The output folder of a run.

    Attributes:
        path: the folder, which exists.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Makes an empty folder, with its parents.

        Raises:
            UserError: if something is already there, or it cannot be written.
        """
        path = Path(path)
        with _explained("create the output folder", path):
            if path.is_dir() and any(path.iterdir()):
                raise UserError(
                    f"The output folder must be new or empty, but {path} holds files "
                    "already: choose another, or move them away."
                )
            if path.exists() and not path.is_dir():
                raise UserError(
                    f"The output folder must be a folder, but {path} is a file: "
                    "choose another path."
                )
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Opens the folder of an earlier run, to read it or to go on.

        Raises:
            UserError: if there is no run in it.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            raise UserError(
                f"The folder of an earlier run holds a config.json, but {path} has "
                "none: check the path."
            )
        return cls(path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json whole or not at all, its keys sorted."""
        text = json.dumps(
            _plain(config),
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
        )
        _replace(self.path / "config.json", _encode(text + "\n"))

    def read_config(self) -> dict[str, Any]:
        """Reads config.json."""
        with _explained("read", self.path / "config.json"):
            return json.loads((self.path / "config.json").read_bytes())

    def append_record(self, record: Record) -> None:
        """Appends one line to rounds.jsonl; NaN and the infinities become null."""
        text = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
        _append(self.path / "rounds.jsonl", _encode(text + "\n"))

    def read_records(self) -> list[dict[str, Any]]:
        """Reads the whole lines of rounds.jsonl; a torn last line is left out."""
        path = self.path / "rounds.jsonl"
        records = []
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(
                    f"Each line of {path} must be a JSON object, but line {number} is "
                    "not: mend or delete that line."
                ) from error
        return records

    def append_queries(
        self,
        ids: Iterable[int],
        labels: Iterable[int],
        pseudo_labels: Iterable[int],
        target_ids: Iterable[int],
        *,
        strategy: str,
        seed: int,
        round: int,
    ) -> None:
        """Appends the queries of one round to queries.csv; -1 is written as nothing.

        Args:
            ids: dataset ids of the queried examples. Shape [B].
            labels: what the oracle said. Shape [B].
            pseudo_labels: what was assumed before, or -1. Shape [B].
            target_ids: dataset id of the mistake that each answers, or -1. Shape [B].
            strategy: name of the acquisition strategy.
            seed: seed of the run.
            round: number of the round.
        """
        path = self.path / "queries.csv"
        with _explained("read", path):
            is_new = not path.exists() or not path.stat().st_size
        rows: list[Sequence[Any]] = [QUERY_COLUMNS] if is_new else []
        for numbers in zip(ids, labels, pseudo_labels, target_ids, strict=True):
            cells = ["" if int(n) == -1 else int(n) for n in numbers]
            rows.append([_inert(strategy), int(seed), int(round), *cells])
        _append(path, _csv_bytes(rows))

    def rewind(self, *, strategy: str, seed: int, round: int) -> None:
        """Drops what one strategy and seed wrote at `round` and later.

        A killed run may have written a round that its checkpoint does not hold yet;
        call this before that round is done again, or its queries are listed twice.
        """
        path = self.path / "rounds.jsonl"
        if path.exists():
            kept = [
                line + b"\n"
                for line, r in zip(_whole_lines(path), self.read_records(), strict=True)
                if (r["strategy"], r["seed"]) != (strategy, seed) or r["round"] < round
            ]
            _replace(path, b"".join(kept))
        path = self.path / "queries.csv"
        if path.exists():
            text = b"".join(line + b"\n" for line in _whole_lines(path)).decode()
            first, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
            mine = [_inert(strategy), str(seed)]
            kept = [r for r in rows if r[:2] != mine or int(r[2]) < round]
            _replace(path, _csv_bytes([first, *kept] if first else []))


class Curve(NamedTuple):
    """The learning curve of one strategy, over its seeds; fractions, not percent.

    Each round is aggregated over the seeds that have reached it, so the seeds behind
    a point may differ between rounds of an unfinished run: `num_seeds` says how many.

    Attributes:
        num_labeled: labelled examples, mean over seeds, rounded. Shape [R].
        mean: mean over seeds. Shape [R].
        std: sample standard deviation over seeds; NaN for a single one. Shape [R].
        low: the lowest seed. Shape [R].
        high: the highest seed. Shape [R].
        accuracy: each seed; NaN where it has not reached the round. Shape [S, R].
        num_seeds: how many seeds have reached the round. Shape [R].
    """

    num_labeled: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    accuracy: np.ndarray
    num_seeds: np.ndarray


def learning_curves(
    records: Iterable[Record], *, metric: str = "test_accuracy"
) -> dict[str, Curve]:
    """Aggregates the records of one dataset into a curve for each strategy.

    Args:
        records: records of any number of strategies, seeds and rounds.
        metric: key of the number to aggregate.

    Returns:
        A curve for each strategy, in order of first appearance.
    """
    curves = {}
    for strategy, seeds in _grouped(records).items():
        rounds = sorted(set().union(*seeds.values()))
        missing = {"num_labeled": None, metric: None}
        table = np.array(
            [
                [[run.get(r, missing)[k] for k in missing] for r in rounds]
                for run in seeds.values()
            ],
            dtype=float,
        )
        labeled, accuracy = table[..., 0], table[..., -1]
        count = (~np.isnan(accuracy)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(accuracy, axis=0) / count
            square = np.nansum((accuracy - mean) ** 2, axis=0)
            std = np.sqrt(square / np.where(count > 1, count - 1, np.nan))
        curves[strategy] = Curve(
            num_labeled=np.rint(np.nanmean(labeled, axis=0)).astype(int),
            mean=mean,
            std=std,
            low=np.fmin.reduce(accuracy, axis=0),
            high=np.fmax.reduce(accuracy, axis=0),
            accuracy=accuracy,
            num_seeds=count,
        )
    return curves


def final_table(
    records: Iterable[Record], *, rounds: Collection[int] | None = None
) -> rich.table.Table:
    """Compares the strategies at the last round that all seeds of each have reached.

    Areas are means over rounds. The best is bold where two or more strategies have
    used equally many labels.

    Args:
        records: records of one dataset.
        rounds: the rounds to look at; all if None.

    Returns:
        A row for each strategy, "mean±sample standard deviation over seeds".
    """
    header, rows = _summary(records, rounds, bold=_bold_rich, escape=rich.markup.escape)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.caption = "Accuracies in percent, mean±std over seeds."
    for index, name in enumerate(header):
        if index:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(
    records: Iterable[Record], reference: Reference | None = None
) -> str:
    """Writes the final table and the learning curves as two Markdown tables.

    Args:
        records: records of one dataset.
        reference: published curves, shown beside the run's own.

    Returns:
        Markdown that ends in a newline.
    """
    records = list(records)
    curves, reference = learning_curves(records), reference or {}
    ours = [
        dict(zip(c.num_labeled.tolist(), zip(c.mean, c.std, strict=True), strict=True))
        for c in curves.values()
    ]
    published = [dict(zip(*pair, strict=True)) for pair in reference.values()]
    rows = []
    for x in sorted(set().union(*ours, *published)):
        points = [curve.get(x, (math.nan, math.nan)) for curve in ours]
        cells = _cells(100 * np.array(points).reshape(-1, 2), bold=_bold_markdown)
        rows.append([f"{x:,.0f}", *cells, *(_number(p.get(x)) for p in published)])
    names = [*curves, *(f"{name} (reference)" for name in reference)]
    header = ["labels", *map(_escape_markdown, names)]
    final = _summary(records, None, bold=_bold_markdown, escape=_escape_markdown)
    return _markdown(*final) + "\n" + _markdown(header, rows)


def draw_learning_curve(
    records: Iterable[Record],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    reference: Reference | None = None,
) -> None:
    """Draws test accuracy over labelled examples, to a PNG file.

    A line is the mean over seeds, its band reaches from the lowest to the highest
    seed; an open marker is a round that only some of the seeds have reached.

    Args:
        records: records of one dataset.
        path: the file to write.
        title: the heading.
        reference: published curves, drawn dashed in the colour of the strategy of the
            same name, or in gray.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    curves, reference = learning_curves(records), reference or {}
    _require_some(curves, path)
    num_seeds = max(len(curve.accuracy) for curve in curves.values())
    is_partial = any((c.num_seeds < len(c.accuracy)).any() for c in curves.values())
    ticks = np.unique(np.concatenate([c.num_labeled for c in curves.values()]))
    # A single round: side by side, or the bars would hide each other.
    dodge = 0.02 * ticks[0] if len(ticks) == 1 else 0
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(8, 5), dpi=150, layout=_layout())
        axes = figure.add_subplot()
        handles, colors = [], {}
        for index, (strategy, curve) in enumerate(curves.items()):
            color = colors[strategy] = _COLORS[index % len(_COLORS)]
            x = curve.num_labeled + dodge * (index - (len(curves) - 1) / 2)
            y = 100 * curve.mean
            band = 100 * curve.low, 100 * curve.high
            if len(x) > 1 and num_seeds > 1:
                alpha = 0.18 if len(curves) <= 4 else 0.1
                axes.fill_between(x, *band, color=color, alpha=alpha, linewidth=0)
            elif num_seeds > 1:
                axes.vlines(x, *band, color=color, alpha=0.5)
            style: dict[str, Any] = {"color": color, "markersize": 5}
            style["marker"] = _MARKERS[index % len(_MARKERS)]
            (line,) = axes.plot(x, y, **style, linewidth=1.8)
            some = curve.num_seeds < len(curve.accuracy)
            axes.plot(x[some], y[some], **style, ls="", mfc="white")
            handles.append((y[-1], strategy, line))
        for index, (name, (x, percent)) in enumerate(reference.items()):
            color = colors.get(name, _GRAYS[index % len(_GRAYS)])
            (line,) = axes.plot(x, percent, "--", color=color, linewidth=1.4)
            handles.append((percent[-1], f"{name} (reference)", line))
        handles.sort(key=lambda handle: -handle[0])  # as the lines end, top to bottom
        figure.legend(
            [line for _, _, line in handles],
            [_literal(name) for _, name, _ in handles],
            loc="outside right upper",
            frameon=False,
        )
        kind = "bar" if dodge else "band"
        caption = f"Mean of {num_seeds} seeds; {kind}: lowest to highest seed."
        caption = caption if num_seeds > 1 else "One seed."
        caption += " Open marker: not all seeds are there yet." if is_partial else ""
        figure.supxlabel(caption, fontsize="small", color="#555555")
        axes.set_title(_literal(title), loc="left", fontweight="bold")
        axes.set_xlabel("labelled examples")
        axes.set_ylabel("test accuracy (%)")
        if len(ticks) == 1 or np.diff(ticks).min() >= np.ptp(ticks) / 11:
            axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if dodge and not reference:
            axes.set_xlim(ticks[0] * 0.8, ticks[0] * 1.2)
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        _save(figure, path)


def draw_confusion(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Draws what each true class is taken for after the last round, to a PNG file.

    One panel for each strategy: the confusion matrix summed over seeds at the last
    round that all have reached, each row scaled to 100 %.

    Args:
        records: records of one dataset.
        path: the file to write.
    """
    import matplotlib.colors
    import matplotlib.style
    from matplotlib.figure import Figure

    panels = {
        strategy: [run[shared[-1]] for run in seeds.values()]
        for strategy, seeds in _grouped(records).items()
        if (shared := _shared_rounds(seeds))
    }
    _require_some(panels, path)
    classes = max(len(last[0]["confusion"]) for last in panels.values())
    num_columns = 1 if 12 < classes <= 20 else min(2, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    width = 8 / num_columns if num_columns > 1 else 6.5
    # The square root lets a confusion of a few percent be seen beside the diagonal.
    norm = matplotlib.colors.PowerNorm(0.5, 0, 100)
    with matplotlib.style.context("default"):
        size = (width * num_columns, 1.06 * width * num_rows + 0.7)
        figure = Figure(figsize=size, dpi=150, layout=_layout())
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        image = None
        for axes, (strategy, last) in zip(grid.flat, panels.items(), strict=False):
            total = np.sum([record["confusion"] for record in last], axis=0)
            with np.errstate(invalid="ignore"):
                percent = 100 * total / total.sum(axis=1, keepdims=True)
            accuracy = _number(100 * total.trace() / total.sum(), digits=1)
            image = axes.imshow(percent, cmap="Blues", norm=norm)
            axes.set_facecolor("#eeeeee")
            num_seeds = f"{len(last)} seed{'s' if len(last) > 1 else ''}"
            below = (
                f"{last[0]['num_labeled']:,} labels, {num_seeds}, {accuracy} % right"
            )
            axes.set_title(f"{_literal(strategy)}\n{below}", fontsize="medium")
            axes.set_xlabel("predicted class")
            axes.set_ylabel("true class")
            if classes > 20:
                continue
            fontsize = min(11, 72 * 0.8 * width / classes * 0.4)
            for name in ("x", "y"):
                axes.tick_params(name, labelsize=min(10, fontsize + 1.5), length=0)
            axes.set_xticks(range(classes))
            axes.set_yticks(range(classes))
            style: dict[str, Any] = {"ha": "center", "va": "center"}
            for (row, column), value in np.ndenumerate(percent):
                if value > 0.5:
                    color = "white" if value > 35 else "black"
                    text = f"{value:.0f}"
                    axes.text(column, row, text, size=fontsize, color=color, **style)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        assert image is not None
        ticks = [0, 1, 5, 10, 25, 50, 75, 100]
        place = {"location": "bottom", "aspect": 50, "pad": 0.15 / size[1]}
        bar = figure.colorbar(image, ax=grid, ticks=ticks, **place)
        note = " (no number: 0.5 or less)" if classes <= 20 else ""
        bar.set_label(f"% of the true class{note}")
        _save(figure, path)


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

    def advance(self, description: str) -> None:
        """Notes that one step is done.

        Args:
            description: a few words on it.
        """
        self._bar.update(self._task, description=description, advance=1)

    def update(self, *, strategy: str, seed: int, round: int, accuracy: float) -> None:
        """Notes that one round is done.

        Args:
            strategy: name of the strategy.
            seed: seed of the run.
            round: number of the round.
            accuracy: test accuracy after it, a fraction.
        """
        percent = _number(100 * accuracy, digits=1)
        self.advance(f"{strategy}, seed {seed}, round {round}: {percent} %")


def _grouped(
    records: Iterable[Record],
) -> dict[str, dict[int, dict[int, Record]]]:
    """Sorts records by strategy, seed and round."""
    groups: dict[str, dict[int, dict[int, Record]]] = {}
    datasets = set()
    for record in records:
        datasets.add(record.get("dataset"))
        seeds = groups.setdefault(record["strategy"], {})
        seeds.setdefault(record["seed"], {})[record["round"]] = record
    if len(datasets) > 1:
        raise ValueError(
            f"Expected the records of one dataset, got {sorted(map(str, datasets))}; "
            "report each by itself."
        )
    return groups


def _shared_rounds(seeds: Mapping[int, Mapping[int, Record]]) -> list[int]:
    """The rounds that every seed of a strategy has reached."""
    return sorted(set.intersection(*(set(run) for run in seeds.values())))


def _summary(
    records: Iterable[Record],
    rounds: Collection[int] | None,
    *,
    bold: Callable[[str], str],
    escape: Callable[[str], str],
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the final table."""
    header = ["strategy", "seeds", "labels", "test", "balanced", "worst", "area"]
    starts, ends, values = [], [], []
    for strategy, seeds in _grouped(records).items():
        shared = [r for r in _shared_rounds(seeds) if rounds is None or r in rounds]
        runs = [[run[r] for r in shared] for run in seeds.values()]
        labels = f"{runs[0][-1]['num_labeled']:,}" if shared else "–"
        starts.append([escape(strategy), str(len(seeds)), labels])
        times = [sum(record["seconds"].values()) for run in runs for record in run]
        ends.append(_number(np.mean(times), digits=1) if times else "–")
        final = 100 * np.array([_final(run) for run in runs])  # [S, 4]
        std = final.std(axis=0, ddof=1) if len(final) > 1 else np.full(4, np.nan)
        values.append(np.stack([final.mean(axis=0), std], axis=-1))  # [4, 2]
    is_fair = len({labels for _, _, labels in starts}) == 1
    columns = zip(*values, strict=True)
    cells = [_cells(np.array(c), bold=bold if is_fair else str) for c in columns]
    rows = zip(starts, zip(*cells, strict=True), ends, strict=True)
    return [*header, "s/round"], [[*start, *row, end] for start, row, end in rows]


def _final(run: Sequence[Record]) -> list[float]:
    """Last test, balanced and worst-class accuracy of one seed, and its area."""
    if not run:
        return [math.nan] * 4
    last = np.array([run[-1]["test_accuracy"], run[-1]["balanced_accuracy"]], float)
    worst = np.fmin.reduce(np.array(run[-1]["class_accuracy"], float))
    area = np.mean(np.array([record["test_accuracy"] for record in run], float))
    return [*last.tolist(), float(worst), float(area)]


def _number(value: Any, *, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    is_number = value is not None and math.isfinite(value)
    return f"{value:.{digits}f}" if is_number else "–"


def _cells(points: np.ndarray, *, bold: Callable[[str], str]) -> list[str]:
    """Formats pairs as "mean±std"; the best, with what ties as printed, is bold."""
    shown = [_number(mean) for mean, _ in points]
    finite = [float(text) for text in shown if text != "–"]
    cells = []
    for text, (_, std) in zip(shown, points, strict=True):
        cell = text if math.isnan(std) else f"{text}±{_number(std)}"
        is_best = len(finite) > 1 and text != "–" and float(text) == max(finite)
        cells.append(bold(cell) if is_best else cell)
    return cells


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])


def _bold_rich(cell: str) -> str:
    return f"[bold]{cell}[/bold]"


def _bold_markdown(cell: str) -> str:
    return f"**{cell}**"


def _escape_markdown(text: str) -> str:
    return text.replace("|", "\\|")


def _literal(text: str) -> str:
    """Keeps matplotlib from reading a dollar sign as mathematics."""
    return text.replace("$", r"\$")


def _layout() -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG without the traces of the library that made it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    _replace(Path(path), buffer.getvalue())


def _require_some(groups: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    if not groups:
        raise UserError(
            f"A figure needs at least one round, but there is none to draw in {path}: "
            "let the run finish a round first."
        )


def _plain(value: Any) -> Any:
    """Turns arrays, tuples and paths into what JSON has; NaN and inf into None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _inert(text: str) -> str:
    """Keeps a spreadsheet from running the text of a CSV cell as a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return _encode(buffer.getvalue())


def _encode(text: str) -> bytes:
    """UTF-8; of an undecodable file name, the escapes that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _explained(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a sentence for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Could not {doing} {path}: {error.strerror or error}; free some space, "
            "mend the permissions or choose another folder."
        ) from error


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file up to its last newline; none if there is no file."""
    with _explained("read", path):
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _append(path: Path, data: bytes) -> None:
    """Appends whole lines in one write, or nothing."""
    with _explained("write", path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # torn by a kill or a power cut
                size = path.read_bytes().rfind(b"\n") + 1
                file.truncate(size)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _replace(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with _explained("write", path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
