"""Timing of contenders in turn, after compilation, with the spread of the times.

The contenders of a race take turns, so that a drift in the speed of the machine affects
all of them. Each runs once before the timed runs, which compiles it; this time is
reported separately. Each run includes waiting for its result. One JSON line is printed
for each contender.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

PACKAGES = ("jax", "torch", "opacus", "backpack-for-pytorch", "traker", "jax-privacy")


class Contender(NamedTuple):
    """An implementation to time.

    Attributes:
        name: name of the implementation.
        run: function that does the work once and returns the arrays to wait for.
        facts: further entries of its row, such as its error.
        examples: number of examples in one run, if it differs from that of the race.
    """

    name: str
    run: Callable[[], Any]
    facts: dict[str, Any] = {}
    examples: int | None = None


def options(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), default="cpu")
    parser.add_argument("--smoke", action="store_true", help="run with tiny sizes")
    parser.add_argument(
        "--repeats", type=int, default=11, help="number of timed runs of each"
    )
    return parser


def start(arguments: argparse.Namespace) -> None:
    """Selects the device; raises an error if JAX has none of that kind."""
    jax.config.update(
        "jax_platforms", {"gpu": "cuda"}.get(arguments.device, arguments.device)
    )
    jax.devices()


def race(
    task: str,
    contenders: Sequence[Contender],
    *,
    examples: int,
    repeats: int,
    baseline: str,
    **setting: Any,
) -> list[dict[str, Any]]:
    """Times the contenders in turn, and prints and returns one row for each.

    Args:
        task: name of the work that is timed.
        contenders: the implementations.
        examples: number of examples in one run.
        repeats: number of timed runs of each contender.
        baseline: name of the contender to which the speeds are relative: above 1 is
            faster.
        **setting: further entries of each row, such as sizes.

    Returns:
        The rows.
    """
    compile_seconds = {}
    for contender in contenders:
        since = time.perf_counter()
        _wait(contender.run())
        compile_seconds[contender.name] = time.perf_counter() - since
    seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
    for _ in range(repeats):
        for contender in contenders:
            since = time.perf_counter()
            _wait(contender.run())
            seconds[contender.name].append(time.perf_counter() - since)
    rows = []
    each = {c.name: c.examples or examples for c in contenders}
    for contender in contenders:
        own, num = np.array(seconds[contender.name]), each[contender.name]
        speed = num / float(np.median(own))
        ratios = np.array(seconds[baseline]) / own * (num / each[baseline])
        row = {
            "task": task,
            "name": contender.name,
            "seconds": _digits(np.median(own)),
            "spread": [_digits(own.min()), _digits(own.max())],
            "examples_per_second": round(speed) if speed >= 10 else _digits(speed),
            f"speed_over_{baseline}": _digits(np.median(ratios)),
            "ratio_spread": [_digits(ratios.min()), _digits(ratios.max())],
            "first_run_seconds": _digits(compile_seconds[contender.name]),
            "repeats": repeats,
            **setting,
            **contender.facts,
            **environment(),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def environment() -> dict[str, Any]:
    """Returns date, device, threads, versions and the peak memory of the process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "threads": len(os.sched_getaffinity(0)),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": versions | {"python": platform.python_version()},
    }


def torch_or_none() -> Any:
    """Returns PyTorch, set to the same threads; None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch


def _wait(result: Any) -> None:
    jax.block_until_ready(result)


def _digits(value: Any) -> float:
    return float(f"{float(value):.4g}")
