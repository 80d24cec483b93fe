"""Writes benchmarks/README.md from the measurements in docs/results.

`python -m benchmarks.tables`. A measurement is made, for example, by

    python -m benchmarks.fisher --device cpu --data-dir DIR > docs/results/fisher.jsonl
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = ("fisher", "projection", "kernel", "selection", "round", "cost")
NAMES += ("transformers", "distributed", "streaming")
RESULTS = Path("docs/results")
PAGE = Path("benchmarks/README.md")

_ROW = {"task", "name", "seconds", "spread", "examples_per_second", "ratio_spread"}
_STAMP = {"date", "device", "threads", "versions", "repeats", "first_run_seconds"}
_NOISE = {"peak_memory_mb", "peak_memory_before_mb", "data", "chunk", "last_phases"}

HEAD = """# Benchmarks

Written by `python -m benchmarks.tables` from the JSON lines in
[docs/results](../docs/results), which also contain compile times, threads, versions and
the peak memory of every row. To measure:

```
pip install '.[bench]'
python -m benchmarks.fisher|projection|kernel|selection|round|cost --device cpu|gpu|tpu
python -m benchmarks.transformers --device cpu --repeats 3
python -m benchmarks.distributed --folder DIR --device cpu
python -m benchmarks.streaming --folder DIR
```

All contenders take turns in one process, after compilation, and each run includes
waiting for its result. A ratio is the time of the baseline divided by that of the row
in the same turn: the median, and the lowest and highest in brackets. Above 1 is faster
than the baseline, whose own ratio is 1. Seconds are medians. On a shared machine, only
ratios are reliable; seconds without a ratio, those of `streaming` and of memory, were
measured while other programs ran. Without `--data-dir`, the images are noise, which
affects errors but not times. `--smoke` runs each benchmark with tiny sizes. Libraries
that are not installed are left out, with a note on stderr.
"""


def main() -> None:
    PAGE.write_text(page(RESULTS), encoding="utf-8")


def page(folder: Path) -> str:
    """Returns the page of all measurements in a folder."""
    parts = [HEAD]
    for name in NAMES:
        path = folder / f"{name}.jsonl"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            parts.append(f"## `benchmarks.{name}`\n")
            parts += _tables(rows)
    return "\n".join(parts).rstrip() + "\n"


def _tables(rows: list[dict[str, Any]]) -> Iterable[str]:
    def stamp(row: dict[str, Any]) -> str:
        versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        return f"{row['device']}, {row['threads']} threads, {row['date']}; {versions}."

    for line, of_run in itertools.groupby(rows, stamp):
        yield f"{line}\n"
        for task, of_task in itertools.groupby(of_run, lambda row: row["task"]):
            yield _table(task, list(of_task))


def _table(task: str, rows: list[dict[str, Any]]) -> str:
    """Returns the table of a race, or of one contender at several sizes.

    The latter includes the peak memory.
    """
    baseline = next((k for k in rows[0] if k.startswith("speed_over_")), "")
    known = _ROW | _STAMP | _NOISE | {baseline, "strategy"}
    facts = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in known]
    is_race = bool(baseline) and len({row["name"] for row in rows}) > 1
    titles = ["", "seconds", "examples per second"]
    if is_race:
        titles.append(f"over {baseline.removeprefix('speed_over_')}")
    else:
        facts += [k for k in ("repeats", "peak_memory_mb") if k in rows[0]]
    titles += [fact.replace("_", " ") for fact in facts]
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    for row in rows:
        cells = [
            row["name"],
            _number(row["seconds"]) + _range(row["spread"]),
            _number(row["examples_per_second"]),
        ]
        if is_race:
            cells.append(f"{row[baseline]:.2f}{_range(row['ratio_spread'])}")
        lines.append(cells + [_number(row.get(fact)) for fact in facts])
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    repeats = f", {rows[0]['repeats']} runs" if is_race else ""
    return f"**{task}**{repeats}\n\n{table}\n"


def _range(spread: list[float]) -> str:
    return f" ({'-'.join(map(_number, spread))})"


def _number(value: Any) -> str:
    if value is None:
        return ""
    if value >= 1e9:
        return f"{value / 1e9:.3g} G"
    if value >= 1e7:
        return f"{value / 1e6:.3g} M"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    main()
