"""Writes benchmarks/README.md from the measurements that docs/results keeps.

`python -m benchmarks.tables`. A measurement is made and kept by, for example,

    python -m benchmarks.fisher --device cpu --data-dir DIR > docs/results/fisher.jsonl
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = ("fisher", "projection", "kernel", "selection", "round", "cost")
NAMES += ("distributed", "streaming")
RESULTS = Path("docs/results")
PAGE = Path("benchmarks/README.md")

_ROW = {"task", "name", "seconds", "spread", "examples_per_second", "ratio_spread"}
_STAMP = {"date", "device", "threads", "versions", "repeats", "first_run_seconds"}
_NOISE = {"peak_memory_mb", "peak_memory_before_mb", "data", "chunk", "last_phases"}

HEAD = """# Benchmarks

Made by `python -m benchmarks.tables` from the JSON lines in
[docs/results](../docs/results), which hold more: compile times, threads, versions and
peak memory of every row. To measure:

```
pip install '.[bench]'
python -m benchmarks.fisher|projection|kernel|selection|round|cost --device cpu|gpu|tpu
python -m benchmarks.distributed --folder DIR --device cpu
python -m benchmarks.streaming --folder DIR
```

All sides of a race take turns in one process, warm, and each result is waited for. A
ratio is the baseline's time over the row's, turn by turn: its median, and the lowest
and highest in brackets. Above 1 is faster than the baseline, whose own row says 1.
Seconds are medians; on a shared machine only ratios mean anything, and seconds without
a ratio, of `streaming` and of memory, were taken beside other work. Without
`--data-dir` the images are noise, which changes errors and not times. `--smoke` runs
everything at a tiny size. What is not installed is left out, and stderr says why.
"""


def main() -> None:
    PAGE.write_text(page(RESULTS), encoding="utf-8")


def page(folder: Path) -> str:
    """The whole page, of the files that are there."""
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
    """Of one race; or of one contender at several sizes, with its peak memory."""
    baseline = next((k for k in rows[0] if k.startswith("speed_over_")), "")
    known = _ROW | _STAMP | _NOISE | {baseline, "strategy"}
    facts = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in known]
    is_race = bool(baseline) and len({row["name"] for row in rows}) > 1
    titles = ["", "seconds", "examples a second"]
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
