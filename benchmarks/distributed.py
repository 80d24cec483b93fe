"""Times queries by one and by two processes, and measures memory by pool size.

`python -m benchmarks.distributed --folder DIR --device cpu`. Each process has its own
core and queries by `fisher_nearest` with the LeNet of the paper. The first pool
consists of 20,000 images of 28 x 28 in memory, with one process and with two in turn.
The other pools consist of 8 x 8 images, streamed from a memory-mapped file, which is
created in DIR and removed at the end; their times are those of one query including its
compilation. `anonymous_mb` is the peak memory of the larger process without the pages
of the file, which the system reclaims when needed; `anonymous_before_mb` is the value
before the query.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from fkjax.acquisition.fisher_kernel import fisher_nearest
from fkjax.base import View
from fkjax.models import lenet
from fkjax.parallel import processes as cluster
from fkjax.parallel.devices import device_mesh, on_all_devices, shard
from fkjax.parallel.examples import stream

BUDGET = 125


def main() -> None:
    parser = harness.options("One and two processes: time and memory.")
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of the pool's file"
    )
    parser.add_argument(
        "--pools", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000]
    )
    parser.add_argument("--no-speed", action="store_true", help="only measure memory")
    for flag in ("worker", "processes", "port", "core"):
        parser.add_argument(f"--{flag}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments)
        return
    harness.start(arguments)
    if not arguments.no_speed:
        speed(arguments)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for num in [2000] if arguments.smoke else arguments.pools:
        file = arguments.folder / "fkjax-benchmark-pool.npy"
        try:
            make_pool(file, num)
            for processes in (1, 2):
                memory(arguments, file, num, processes)
        finally:
            file.unlink(missing_ok=True)


def speed(arguments: argparse.Namespace) -> None:
    """Times one and two processes in turn, which are started once."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("the speed of two processes needs two cores")
    sides = {n: start_workers(arguments, n, cores) for n in (1, 2)}
    num = 2000 if arguments.smoke else 20_000
    first, seconds = {}, {n: [] for n in sides}
    for n, workers in sides.items():
        first[n] = query(workers)[0]["seconds"]
    for _ in range(arguments.repeats):
        for n, workers in sides.items():
            seconds[n].append(max(said["seconds"] for said in query(workers)))
    for workers in sides.values():
        stop(workers)
    for n in sides:
        own = np.array(seconds[n])
        ratios = np.array(seconds[1]) / own
        row = {
            "task": "a query by processes with a core each",
            "name": f"fkjax, {n} process" + "es" * (n > 1),
            "seconds": _digits(np.median(own)),
            "spread": [_digits(own.min()), _digits(own.max())],
            "examples_per_second": round(num / float(np.median(own))),
            "speed_over_one_process": _digits(np.median(ratios)),
            "ratio_spread": [_digits(ratios.min()), _digits(ratios.max())],
            "first_run_seconds": _digits(first[n]),
            "repeats": arguments.repeats,
            "num_pool": num,
            "efficiency": _digits(np.median(ratios) / n),
        }
        print(json.dumps(row | environment()), flush=True)


def memory(arguments: argparse.Namespace, file: Path, num: int, processes: int) -> None:
    """Measures time and peak memory of one query, including its compilation."""
    cores = sorted(os.sched_getaffinity(0))
    workers = start_workers(arguments, processes, cores, file)
    said = query(workers)
    stop(workers)
    seconds = _digits(max(one["seconds"] for one in said))
    row = {
        "task": "a query of a streamed pool",
        "name": f"fkjax, {num:,} images, {processes} process" + "es" * (processes > 1),
        "seconds": seconds,
        "spread": [seconds, seconds],
        "examples_per_second": round(num / seconds),
        "repeats": 1,
        "num_pool": num,
        "pool_mb": num * 64 // 10**6,
        "anonymous_mb": max(one["anonymous_mb"] for one in said),
        "anonymous_before_mb": max(one["before_mb"] for one in said),
    }
    print(json.dumps(row | environment()), flush=True)


def make_pool(file: Path, num: int) -> None:
    """Writes a pool of ten patterns with noise, in parts."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (num, 8, 8, 1))
    patterns = rng.integers(0, 128, (10, 8, 8, 1), np.uint8)
    for start in range(0, num, 100_000):
        part = images[start : start + 100_000]
        noise = rng.integers(0, 128, part.shape, np.uint8)
        part[:] = patterns[np.arange(len(part)) % 10] + noise
    images.flush()


def start_workers(
    arguments: argparse.Namespace,
    processes: int,
    cores: list[int],
    file: Path | None = None,
) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for i in range(processes):
        command = [sys.executable, "-m", "benchmarks.distributed"]
        command += ["--folder", str(arguments.folder), "--device", arguments.device]
        command += ["--worker", str(i), "--processes", str(processes)]
        command += ["--port", str(port)] + ["--smoke"] * arguments.smoke
        command += ["--file", str(file)] if file else []
        command += ["--core", str(cores[i % len(cores)])]
        pipe = subprocess.PIPE
        workers.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        )
    return workers


def query(workers: list[subprocess.Popen]) -> list[dict[str, Any]]:
    for worker in workers:
        print("query", file=worker.stdin, flush=True)
    said = []
    for worker in workers:
        line = worker.stdout.readline()
        if not line:
            raise SystemExit(f"a process stopped with status {worker.wait()}")
        said.append(json.loads(line))
    return said


def stop(workers: list[subprocess.Popen]) -> None:
    for worker in workers:
        worker.stdin.close()
    for worker in workers:
        worker.wait()


def work(arguments: argparse.Namespace) -> None:
    """Runs a worker process, which times one query for each line of its input."""
    os.sched_setaffinity(0, {arguments.core})
    address = f"127.0.0.1:{arguments.port}"
    if arguments.processes > 1:
        cluster.connect(address, arguments.processes, arguments.worker)
    rng = np.random.default_rng(1)
    if arguments.file:
        pool = np.load(arguments.file, mmap_mode="r", allow_pickle=False)
        num, shape = len(pool), (8, 8, 1)
        images = stream(lambda ids, then: pool[ids], num, shape)
    else:
        num, shape = 2000 if arguments.smoke else 20_000, (28, 28, 1)
        images = rng.integers(0, 256, (num, *shape), np.uint8)
    num_validation = 200 if arguments.smoke else 2000
    validation = rng.integers(0, 256, (num_validation, *shape), np.uint8)
    model = lenet(shape, 10)
    strategy = fisher_nearest(model, taps=("conv1", "conv2", "fc1"), budget=BUDGET)
    if arguments.processes > 1:
        mesh = device_mesh()
        run = on_all_devices(strategy.query, mesh)
        images, validation = shard(images, mesh), shard(validation, mesh)
    else:
        run = jax.jit(strategy.query)
        images, validation = jax.tree.map(jnp.asarray, (images, validation))
    view = View(
        jax.jit(model.init)(jax.random.key(0)),
        images,
        jnp.ones(num, bool),
        validation,
        jnp.arange(num_validation) % 10,
        jnp.arange(num_validation) % 4 == 0,
        jnp.zeros(0, jnp.int32),
    )
    before = anonymous_mb()
    for line in sys.stdin:
        watch, since = Watch(), time.perf_counter()
        jax.block_until_ready(run(jax.random.key(len(line)), view))
        said = {"seconds": time.perf_counter() - since}
        said |= {"anonymous_mb": watch.stop(), "before_mb": before}
        print(json.dumps(said), flush=True)


class Watch:
    """A monitor of the peak memory of this process without pages of files, in MB."""

    def __init__(self) -> None:
        """Starts the monitor."""
        self._peak, self._done = anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stops the monitor and returns the peak."""
        self._done.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self._peak = max(self._peak, anonymous_mb())


def anonymous_mb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 // 10**6
    raise SystemExit("the memory benchmark reads /proc, as on Linux")


def environment() -> dict[str, Any]:
    said = harness.environment()
    del said["peak_memory_mb"]  # that of the process that starts the workers
    return said


def _digits(value: Any) -> float:
    return float(f"{float(value):.4g}")


if __name__ == "__main__":
    main()
