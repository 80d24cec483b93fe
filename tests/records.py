"""Records as a run writes them, and the form of error messages."""

import numpy as np

from fkjax.runs.folder import RunFolder


def record(strategy="fisher", seed=0, round=0, accuracy=0.5, classes=3, **extra):
    confusion = np.full((classes, classes), 1) + 8 * np.eye(classes, dtype=int)
    return {
        "dataset": "digits",
        "strategy": strategy,
        "seed": seed,
        "round": round,
        "num_labeled": 100 * (round + 1),
        "test_accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.1,
        "class_accuracy": [accuracy - 0.2] + [accuracy] * (classes - 1),
        "queried_per_class": [1] * classes,
        "confusion": confusion.tolist(),
        "checkpoint_selection": "last",
        "num_random": 0,
        "num_mistakes": 3,
        "seconds": {"query": 1.0, "update": 2.0},
        **extra,
    }


def grid(strategies, seeds, rounds, **extra):
    return [
        record(s, seed, r, 0.5 + 0.04 * r + 0.01 * seed + 0.02 * k, **extra)
        for k, s in enumerate(strategies)
        for seed in range(seeds)
        for r in range(rounds)
    ]


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and not text.endswith(".") and not text[0].isupper()


def write_run(path, records, **config):
    """Writes a run folder as `fkjax.run` does, with queries of the digits."""
    folder = RunFolder.create(path)
    strategies = list(dict.fromkeys(r["strategy"] for r in records))
    told = {
        "dataset": "digits",
        "strategies": strategies,
        "seeds": len({r["seed"] for r in records}),
        "rounds": len({r["round"] for r in records}),
        "seed": 0,
        "budget": 100,
        "output_dir": str(path),
        "data_dir": None,
        "label_noise": 0.0,
        "versions": {"jax": "0.10"},
    }
    folder.write_config(told | config)
    for r in records:
        folder.append_record(r)
    return folder
