"""Runs the benchmarks with tiny sizes, and tests the page of results."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parents[2]


EXPENSIVE = ("cost", "fisher", "round", "selection")
NAMES = (*EXPENSIVE, "kernel", "projection", "transformers")


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_takes_its_flags(name):
    main = importlib.import_module(f"benchmarks.{name}").main
    with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, "--help"])
        main()
    assert end.value.code == 0


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in EXPENSIVE),
        *(
            pytest.param(name, marks=pytest.mark.integration)
            for name in ("kernel", "projection", "transformers")
        ),
    ],
)
def test_smoke(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--repeats", "2"]
    env = os.environ | {"JAX_NUMPY_RANK_PROMOTION": "allow"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert any(row["name"].startswith("fkjax") for row in rows)
    for row in rows:
        low, high = row["spread"]
        assert 0 < low <= row["seconds"] <= high
        assert row["repeats"] == 2 and row["device"] == "cpu" and row["threads"] >= 1


def test_the_page_shows_what_was_measured(tmp_path):
    stamp = {
        "repeats": 3,
        "date": "2026-01-01",
        "device": "cpu",
        "threads": 2,
        "versions": {"jax": "1.0"},
    }
    rows = [
        {
            "task": "a race",
            "name": name,
            "seconds": seconds,
            "spread": [seconds, seconds],
            "examples_per_second": round(100 / seconds),
            "speed_over_slow": 2 / seconds,
            "ratio_spread": [1.0, 3.0],
            "error": 0.5,
            **stamp,
        }
        for name, seconds in (("fkjax", 0.5), ("slow", 2.0))
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "kernel.jsonl").write_text(text)
    page = tables.page(tmp_path)
    assert "## `benchmarks.kernel`" in page and "benchmarks.fisher`" not in page
    assert "cpu, 2 threads, 2026-01-01; jax 1.0." in page
    assert "| fkjax | 0.5 (0.5-0.5) | 200 | 4.00 (1-3) | 0.5 |" in page


def test_the_committed_page_is_of_the_committed_measurements():
    assert (ROOT / tables.PAGE).read_text() == tables.page(ROOT / tables.RESULTS)
