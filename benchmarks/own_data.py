"""Counts the rare images that `fkjax.select` finds with each kind of input.

`python -m benchmarks.own_data --folder DIR`. Saves a biased pool of 25,000 MNIST images
as PNG files in DIR: 4,950 of each of the digits 0 to 4, and 50 of each of 5 to 9. 125
random images of the pool are labeled, and so is a balanced validation set of 1,000
images. A LeNet is trained on the 125 images. Then 125 more are selected, for three
seeds and each kind of input: the features and logits of the LeNet; the LeNet as a plain
Flax module; and the folder of images, on which the command trains its own model. They
are compared with random picks. If PyTorch is installed, it computes the features and
logits of the same LeNet, too, and the number of equal picks is counted.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

import fkjax
from benchmarks import harness
from fkjax.data import datasets
from fkjax.experiment.presets import defaults
from fkjax.models import lenet
from fkjax.training import fit

COMMON, RARE, LABELED, VALIDATION, BUDGET = 4950, 50, 125, 1000, 125


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--without-images", action="store_true", help="leave out the folder of images"
    )
    arguments = parser.parse_args()
    dataset = datasets.load("mnist", data_dir=arguments.data_dir)
    for seed in range(arguments.seeds):
        folder = arguments.folder / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows(dataset, folder, seed, arguments.without_images):
            print(json.dumps(row | {"seed": seed} | harness.environment()), flush=True)


def rows(dataset: Any, folder: Path, seed: int, without_images: bool):
    images, labels = np.asarray(dataset.train_images), np.asarray(dataset.train_labels)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    of_class = [order[labels[order] == c] for c in range(10)]
    each = VALIDATION // 10
    known = np.concatenate([ids[:each] for ids in of_class])
    pool = np.concatenate(
        [
            ids[each : each + (COMMON if c < 5 else RARE)]
            for c, ids in enumerate(of_class)
        ]
    )
    pool = rng.permutation(pool)
    labeled, rest = pool[:LABELED], pool[LABELED:]
    variables = trained(images[labeled], labels[labeled], seed)
    network = Plain(variables.parameters)
    names = np.array([f"{i:05d}.png" for i in range(len(labels))])

    def count(way: str, picks: list[Any]) -> dict[str, Any]:
        chosen = labels[[int(str(p)[:5]) for p in picks]]
        return {
            "task": f"rare images in {BUDGET} picks of {len(rest):,}",
            "name": way,
            "rare": int((chosen >= 5).sum()),
            "rare_in_pool": int((labels[rest] >= 5).sum()),
        }

    @nnx.jit
    def outputs(network: Plain, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = network.features(batch)
        return features, network.head(features)

    def arrays(ids: np.ndarray, run=lambda batch: outputs(network, batch)) -> dict:
        batches = np.array_split(images[ids], max(1, len(ids) // 1000))
        parts = [[np.asarray(x) for x in run(batch)] for batch in batches]
        made = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return {"features": made[0], "logits": made[1], "ids": names[ids]}

    def chosen(path: str, **validation: Any) -> list[str]:
        np.savez(folder / "pool.npz", **arrays(rest))
        np.savez(folder / "validation.npz", **arrays(known), labels=labels[known])
        command = ["--pool", f"{folder}/pool.npz", "--validation"]
        command += [f"{folder}/validation.npz", "--strategy", path]
        return command_picks(command, folder / "picks.csv")

    yield count("random", chosen("random"))
    by_arrays = chosen("fisher_nearest")
    yield count("1a: features and logits", by_arrays)
    selection = fkjax.select(
        {"images": images[rest], "ids": names[rest]},
        {"images": images[known], "labels": labels[known]},
        network=network,
        budget=BUDGET,
    )
    yield count("1b: a plain Flax module", [p.id for p in selection.picks])
    run = torch_run(variables.parameters)
    if run is not None:
        found = fkjax.select(
            arrays(rest, run), arrays(known, run) | {"labels": labels[known]},
            budget=BUDGET,
        )  # fmt: skip
        ids = [p.id for p in found.picks]
        row = count("1a: features and logits, by PyTorch", ids)
        yield row | {"picks_as_by_jax": len(set(ids) & set(by_arrays))}
    if not without_images:
        save_images(folder, images, labels, names, known, labeled, rest)
        command = ["--images", f"{folder}/images", "--labels", f"{folder}/labels.csv"]
        command += ["--image-size", "28"]
        ids = command_picks(command, folder / "picks-images.csv")
        yield count("1c: a folder of images", ids)


def trained(images: np.ndarray, labels: np.ndarray, seed: int):
    model = lenet((28, 28, 1), 10)
    key = jax.random.key(seed)
    return jax.jit(
        lambda images, labels: fit.fit(
            key, model, model.init(key), images, labels, jnp.int32(len(labels)),
            schedule=defaults("mnist").training(), score=fit.last_epoch,
        )
    )(jnp.asarray(images), jnp.asarray(labels))  # fmt: skip


class Plain(nnx.Module):
    """A LeNet written without fkjax."""

    def __init__(self, weights: Any):
        """Creates the LeNet with the given weights."""
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(1, 10, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(10, 20, (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(320, 50, rngs=rngs)
        self.fc2 = nnx.Linear(50, 10, rngs=rngs)
        for name, layer in weights.items():
            getattr(self, name).kernel[...] = layer["kernel"]
            getattr(self, name).bias[...] = layer["bias"]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits of images in 0..255."""
        return self.head(self.features(x))

    def features(self, x: jax.Array) -> jax.Array:
        """Returns the input of the last layer."""
        x = (x.astype(jnp.float32) / 255 - 0.1307) / 0.3081
        for conv in (self.conv1, self.conv2):
            x = nnx.relu(nnx.max_pool(conv(x), (2, 2), strides=(2, 2)))
        return nnx.relu(self.fc1(x.reshape(len(x), -1)))

    def head(self, x: jax.Array) -> jax.Array:
        """Returns the logits of inputs of the last layer."""
        return self.fc2(x)


def torch_run(weights: Any):
    """Returns the features and logits of a batch by PyTorch, or None without it."""
    torch = harness.torch_or_none()
    if torch is None:
        return None
    w = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), weights)

    def conv(x, layer):
        kernel = layer["kernel"].permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, layer["bias"])
        return torch.relu(torch.nn.functional.max_pool2d(x, 2))

    def run(batch: np.ndarray):
        with torch.no_grad():
            x = (torch.tensor(batch).permute(0, 3, 1, 2) / 255 - 0.1307) / 0.3081
            x = conv(conv(x, w["conv1"]), w["conv2"]).permute(0, 2, 3, 1)
            x = x.reshape(len(x), -1) @ w["fc1"]["kernel"] + w["fc1"]["bias"]
            x = torch.relu(x)
            return x.numpy(), (x @ w["fc2"]["kernel"] + w["fc2"]["bias"]).numpy()

    return run


def command_picks(arguments: list[str], output: Path) -> list[str]:
    """Returns the ids that `fkjax select` selects."""
    command = [sys.executable, "-m", "fkjax.select", *arguments]
    command += ["--budget", str(BUDGET), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with output.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def save_images(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    names: np.ndarray,
    known: np.ndarray,
    labeled: np.ndarray,
    rest: np.ndarray,
) -> None:
    (folder / "images").mkdir(exist_ok=True)
    for i in np.concatenate([known, labeled, rest]):
        Image.fromarray(images[i, ..., 0]).save(folder / "images" / names[i])
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "set"])
        for ids, part in ((known, "validation"), (labeled, "train")):
            writer.writerows([names[i], labels[i], part] for i in ids)


if __name__ == "__main__":
    main()
