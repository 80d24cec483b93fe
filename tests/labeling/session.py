"""A labeling session of 60 digits: its folders, its form and its answers."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import fkjax.commands.label
from fkjax.base import Model, Variables, no_tap

BUDGET, ROUNDS = 4, 2

CLASSES = ["one", "two", "zero"]
NAMES = ("zero", "one", "two")


def dense(image_shape, num_classes, *, mean, std, conv_dropout, dense_dropout):
    """Two dense layers, which compile fast."""
    sizes = {"hidden": (np.prod(image_shape), 16), "out": (16, num_classes)}

    def init(key):
        keys = zip(sizes, jax.random.split(key), strict=True)
        return Variables({n: 0.2 * jax.random.normal(k, sizes[n]) for n, k in keys})

    def apply(variables, images, tap=no_tap):
        x = (images / 255 - np.reshape(mean, (1, 1, 1, -1))) / np.reshape(
            std, (1, 1, 1, -1)
        )
        x = x.reshape(len(images), -1) @ variables.parameters["hidden"]
        return jnp.tanh(tap("hidden", x)) @ variables.parameters["out"]

    return Model(init, apply, ("hidden",), "out", tuple(image_shape), num_classes)


class World:
    """60 digits in subfolders, 10 of them in the pool, and a person who labels them.

    Attributes:
        truth: class of each file.
        known: set of each file in labels.csv.
    """

    def __init__(self, home, digits):
        self.images, self.labels = home / "images", home / "labels.csv"
        self.truth, self.known = {}, {}
        for c, (name, in_pool) in enumerate(zip(NAMES, (4, 3, 3), strict=True)):
            for i, at in enumerate(np.flatnonzero(digits.train_labels == c)[:20]):
                file = f"{'ab'[i % 2]}/{at}.png"
                path = self.images / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(digits.train_images[at, ..., 0]).save(path)
                self.truth[file] = name
                if i < 20 - in_pool:
                    self.known[file] = "validation" if i < 12 else "train"
        rows = [
            f"{file},{self.truth[file]},{part}" for file, part in self.known.items()
        ]
        self.labels.write_text("\n".join(["file,label,set", *rows]))

    def command(self, out, *more):
        settings = f"--budget {BUDGET} --rounds {ROUNDS} --epochs 2 --model dense"
        settings += " --pretraining-epochs 1"
        return fkjax.commands.label.main(
            [
                *("--images", str(self.images), "--labels", str(self.labels)),
                *("--output-dir", str(out), "--image-size", "8"),
                *settings.split(),
                *more,
            ]
        )

    def answer(self, out, first="?"):
        """Fills in the form: the first line as given, the others correctly."""
        rows = [row | {"label": self.truth[row["file"]]} for row in form(out)]
        fill(out, [rows[0] | {"label": first}, *rows[1:]])


def form(out):
    with (out / "to_label.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fill(out, rows):
    with (out / "to_label.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def records(out):
    path = out / "rounds.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    for record in found:
        del record["seconds"], record["peak_memory_mb"]
    return found


def left_behind(out):
    """Returns the files of a run without times, memory and arrays dated by Orbax."""
    files = {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file()
        and "checkpoints" not in path.parts
        and path.name != "rounds.jsonl"
    }
    return files, records(out)
