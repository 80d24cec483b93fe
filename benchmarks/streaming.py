"""Measures memory and time of `fkjax select` on a pool that stays on disk.

`python -m benchmarks.streaming --folder DIR`. Writes a pool of `--pools` rows of 512
float32 features and 10 logits to DIR, as .npy files, and a validation set of 1,000
examples; runs the command on them, and removes the files. `anonymous_mb` is the peak
memory of the command without the pages of the files, which the system reclaims when
needed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.distributed import environment

WIDTH, CLASSES, VALIDATION, BUDGET = 512, 10, 1000, 125
PART = 100_000  # number of rows written at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--pools", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000]
    )
    parser.add_argument("--strategy", default="fisher_nearest")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for num in arguments.pools:
        files = [arguments.folder / f"pool_{n}.npy" for n in ("features", "logits")]
        known = arguments.folder / "validation.npz"
        try:
            make(num, *files, known)
            print(json.dumps(measure(num, files, known, arguments)), flush=True)
        finally:
            for path in (*files, known):
                path.unlink(missing_ok=True)


def make(num: int, features: Path, logits: Path, validation: Path) -> None:
    """Writes noise around ten centers, of which the last ones are rare in the pool."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    head = rng.normal(size=(WIDTH, CLASSES)).astype(np.float32) / WIDTH**0.5

    def rows(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.standard_normal((len(labels), WIDTH), np.float32)
        z = np.maximum(centers[labels] + 2 * noise, 0)
        return z, z @ head

    out = np.lib.format.open_memmap(features, "w+", np.float32, (num, WIDTH))
    out_logits = np.lib.format.open_memmap(logits, "w+", np.float32, (num, CLASSES))
    share = np.array([10.0] * 5 + [0.1] * 5)
    for start in range(0, num, PART):
        size = min(PART, num - start)
        labels = rng.choice(CLASSES, size, p=share / share.sum())
        part = slice(start, start + size)
        out[part], out_logits[part] = rows(labels)
    labels = np.arange(VALIDATION) % CLASSES
    z, scores = rows(labels)
    np.savez(validation, features=z, logits=scores, labels=labels)


def measure(num: int, files: list[Path], validation: Path, arguments) -> dict:
    command = [sys.executable, "-m", "fkjax.select", "--pool", *map(str, files)]
    command += ["--validation", str(validation), "--budget", str(BUDGET)]
    command += ["--strategy", arguments.strategy]
    since = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.02)
    seconds = time.perf_counter() - since
    if process.wait():
        raise SystemExit(f"the command ended with status {process.returncode}")
    return {
        "task": "fkjax.select on a pool on disk",
        "name": f"fkjax, {num:,} rows",
        "seconds": round(seconds, 1),
        "spread": [round(seconds, 1)] * 2,
        "examples_per_second": round(num / seconds),
        "repeats": 1,
        "strategy": arguments.strategy,
        "num_pool": num,
        "num_validation": VALIDATION,
        "pool_mb": num * (WIDTH + CLASSES) * 4 // 10**6,
        "anonymous_mb": peak // 10**6,
    } | environment()


if __name__ == "__main__":
    main()
