"""Measures how often the intervals of class shares contain the truth.

    python -m benchmarks.label_shift_coverage > FILE
    python -m benchmarks.label_shift_coverage --table FILE

Each trial draws classes that are Gaussians, a model of them, a validation set with
balanced classes of which each occurs, and a pool of 2,000 examples, and calls
`fkjax.label_shift.bias`. The first command prints one JSON line for each setting and
estimate. The second prints them as tables in Markdown.

Pools: "1x" has balanced classes. In "10x" and "100x", the second half of the classes is
so many times rarer than the first half. In "one class 100x" this holds for one class.

Models: "calibrated" has the exact probabilities, and "overconfident" has three times
their logits. "undertrained" is a softmax regression after 30 steps of gradient descent
on two examples per class of the pool "10x". It confuses classes and never predicts some
of them.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import environment
from fkjax.label_shift import Shares, bias

NUM_POOL = 2000
POOLS = ("1x", "10x", "100x", "one class 100x")
MODELS = ("calibrated", "overconfident", "undertrained")
SIZES = {10: (50, 100, 200, 500, 1000), 100: (100, 200, 500, 1000)}
DISTANCES = {10: 4.0, 100: 6.0}  # of the centers from the origin, by number of classes

Sample = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals of shares.")
    parser.add_argument("--trials", type=int, default=100, help="trials of a setting")
    parser.add_argument(
        "--num-classes", type=int, nargs="+", default=list(SIZES), choices=list(SIZES)
    )
    parser.add_argument("--smoke", action="store_true", help="run with tiny sizes")
    parser.add_argument("--table", type=Path, help="print a table of these records")
    arguments = parser.parse_args()
    if arguments.table is not None:
        lines = arguments.table.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        print("\n\n".join([summary(records), *tables(records)]))
        return
    sizes = {num: (num,) for num in SIZES} if arguments.smoke else SIZES
    for num_classes, model, pool in itertools.product(
        arguments.num_classes, MODELS, POOLS
    ):
        for num_validation in sizes[num_classes]:
            trials = 2 if arguments.smoke else arguments.trials
            for row in rows(num_classes, model, pool, num_validation, trials):
                print(json.dumps(row | environment()), flush=True)


def rows(
    num_classes: int, model: str, pool: str, num_validation: int, trials: int
) -> Iterator[dict[str, Any]]:
    """Yields the records of a setting, one for each estimate."""
    truth = shares_of(pool, num_classes)
    found = []
    for trial in range(trials):
        setting = [num_classes, MODELS.index(model), POOLS.index(pool), num_validation]
        rng = np.random.default_rng([*setting, trial])
        sample = sampler(rng, model, num_classes)
        rest = rng.integers(num_classes, size=num_validation - num_classes)
        labels = np.append(np.arange(num_classes), rest)
        hidden = rng.choice(num_classes, NUM_POOL, p=truth)
        names = [str(y) for y in range(num_classes)]
        found.append(
            bias(sample(hidden), sample(labels), labels, classes=names, seed=trial)
        )
    setting = {
        "num_classes": num_classes,
        "model": model,
        "pool": pool,
        "num_validation": num_validation,
        "num_pool": NUM_POOL,
        "trials": trials,
    }
    ratio = [shift.ratio for shift in found]
    for name, shares, true in (
        ("BBSE", [shift.bbse for shift in found], truth),
        ("EM", [shift.em for shift in found], truth),
        ("ratio", ratio, truth * num_classes),
    ):
        yield {"task": "coverage", "name": name} | setting | facts(shares, true)


def facts(shares: Iterable[Shares], truth: np.ndarray) -> dict[str, float | None]:
    """Returns the share of intervals that contain the truth, and other statistics.

    The width is that of the median interval, in multiples of a share of 1 / C.
    """
    low, high = (np.array([getattr(s, end) for s in shares]) for end in ("low", "high"))
    is_stated = np.isfinite(low)
    contains = (low <= truth) & (truth <= high)
    is_rare = truth < truth.max()

    def coverage(columns: np.ndarray) -> float | None:
        stated = is_stated[:, columns]
        return (
            round(float(contains[:, columns][stated].mean()), 3)
            if stated.any()
            else None
        )

    width = (high - low)[is_stated] / truth.sum() * len(truth)
    return {
        "coverage": coverage(np.ones(len(truth), bool)),
        "coverage_rare": coverage(is_rare),
        "withheld": round(float(1 - is_stated.mean()), 3),
        "width": round(float(np.median(width)), 2) if len(width) else None,
    }


def shares_of(pool: str, num_classes: int) -> np.ndarray:
    """Returns the class shares of a pool. Shape [C]."""
    factor = {"1x": 1, "10x": 10}.get(pool, 100)
    num_rare = 1 if pool.startswith("one") else num_classes // 2
    weights = np.where(np.arange(num_classes) < num_classes - num_rare, factor, 1)
    return weights / weights.sum()


def sampler(rng: np.random.Generator, model: str, num_classes: int) -> Sample:
    """Returns a function from classes to a model's probabilities for examples of them.

    Examples of a class are Gaussian around a center in min(C, 20) dimensions.
    """
    centers = rng.normal(size=(num_classes, min(num_classes, 20)))
    centers *= DISTANCES[num_classes] / np.linalg.norm(centers, axis=1, keepdims=True)

    def examples(labels: np.ndarray) -> np.ndarray:
        return centers[labels] + rng.normal(size=(len(labels), centers.shape[1]))

    weights, offset = centers.T, np.zeros(num_classes)
    if model == "overconfident":
        weights = 3 * weights
    elif model == "undertrained":
        prior = shares_of("10x", num_classes)
        labels = rng.choice(num_classes, 2 * num_classes, p=prior)
        x, targets = examples(labels), np.eye(num_classes)[labels]
        weights = np.zeros_like(centers.T)
        for _ in range(30):
            error = softmax(x @ weights + offset) - targets
            weights = weights - 0.1 * x.T @ error / len(x)
            offset = offset - 0.1 * error.mean(axis=0)
    return lambda labels: softmax(examples(labels) @ weights + offset)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def summary(records: list[dict[str, Any]]) -> str:
    """Returns a sentence on the lowest coverage, of all classes and of the rare."""

    def lowest(entry: str) -> str:
        stated = [row for row in records if row[entry] is not None]
        if not stated:
            return "none"
        row = min(stated, key=lambda row: row[entry])
        return (
            f"{100 * row[entry]:.0f} % ({row['name']}, {row['num_classes']} classes, "
            f"{row['model']}, {row['pool']}, M = {row['num_validation']:,})"
        )

    return (
        f"The lowest coverage of {len(records)} cells is {lowest('coverage')}; that of "
        f"the rare classes alone is {lowest('coverage_rare')}."
    )


def tables(records: list[dict[str, Any]]) -> Iterator[str]:
    """Yields a table in Markdown for each number of classes."""

    def text(row: dict[str, Any]) -> str:
        if row["coverage"] is None:
            return "all withheld"
        return (
            f"{100 * row['coverage']:.0f}, {100 * row['withheld']:.0f}, {row['width']}"
        )

    for num, of_classes in itertools.groupby(records, lambda row: row["num_classes"]):
        part = list(of_classes)
        sizes = sorted({row["num_validation"] for row in part})
        head = ["estimate", "model", "pool", *(f"M = {size:,}" for size in sizes)]
        lines = [head, ["---"] * len(head)]
        keys = dict.fromkeys((r["name"], r["model"], r["pool"]) for r in part)
        for key in sorted(keys, key=lambda k: k[0]):
            own = [r for r in part if (r["name"], r["model"], r["pool"]) == key]
            cells = {r["num_validation"]: text(r) for r in own}
            lines.append([*key, *(cells[size] for size in sizes)])
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        yield f"{num} classes:\n\n{table}"


if __name__ == "__main__":
    main()
