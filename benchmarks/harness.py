"""How everything here is timed: side by side, in turn, warm, with the spread.

The contenders of one race take turns, so that a machine whose speed drifts drifts for
all of them. Each runs once before the clock starts (which compiles it; that time is
told apart), and each result is waited for. One JSON line is printed a contender.
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
    """One side of a race.

    Attributes:
        name: of the implementation.
        run: does the work once and returns what must be waited for.
        facts: what else to print beside its time, such as its error.
        examples: how many one run handles, where that is not the race's number.
    """

    name: str
    run: Callable[[], Any]
    facts: dict[str, Any] = {}
    examples: int | None = None


def options(description: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--repeats", type=int, default=11, help="timed runs of each")
    return parser


def start(arguments: argparse.Namespace) -> None:
    """Selects the device; fails at once if JAX has none of that kind."""
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
    """Times the contenders in turn, prints and returns one row each.

    Args:
        task: what is timed.
        contenders: who does it.
        examples: how many examples one run handles.
        repeats: timed runs of each.
        baseline: the contender whose time an example the ratios are to: above 1 is
            faster.
        **setting: sizes and chunks to print.
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
        ratios = np.array(seconds[baseline]) / own * (num / each[baseline])
        row = {
            "task": task,
            "name": contender.name,
            "seconds": _digits(np.median(own)),
            "spread": [_digits(own.min()), _digits(own.max())],
            "examples_per_second": round(num / float(np.median(own))),
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
    """Date, device, threads, versions and the process's peak memory so far."""
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
    """PyTorch on the same threads, if it is installed (extra `bench`)."""
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
