"""The benchmarks run at their smallest size, and print what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name", ["fisher", "kernel", "projection", "round", "selection"]
)
def test_smoke(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--repeats", "2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert any(row["name"].startswith("fkjax") for row in rows)
    for row in rows:
        low, high = row["spread"]
        assert 0 < low <= row["seconds"] <= high
        assert row["repeats"] == 2 and row["device"] == "cpu" and row["threads"] >= 1
