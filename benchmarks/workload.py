"""The workload of the benchmarks: MNIST if available, otherwise random images."""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fkjax.base import Model, UserError, Variables
from fkjax.data import datasets
from fkjax.models import lenet
from fkjax.training.fit import Schedule, fit


class Workload(NamedTuple):
    """A LeNet and images; `source` is the name of the dataset."""

    model: Model
    variables: Variables
    images: np.ndarray
    labels: np.ndarray
    source: str


def load(arguments: argparse.Namespace, *, size: int, epochs: int = 0) -> Workload:
    """Returns `size` random images, and a LeNet trained on 1,250 of them."""
    rng = np.random.default_rng(0)
    try:
        mnist = datasets.load("mnist", data_dir=arguments.data_dir)
        chosen = rng.permutation(len(mnist.train_labels))[:size]
        images, labels = mnist.train_images[chosen], mnist.train_labels[chosen]
        source = "mnist"
    except UserError:
        images = rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8)
        labels = rng.integers(0, 10, size).astype(np.int32)
        source = "random images"
    model = lenet((28, 28, 1), 10)
    variables = model.init(jax.random.key(0))
    if epochs:
        n = min(1250, size)
        train = jax.jit(
            lambda v, x, y: fit(
                jax.random.key(1), model, v, x, y, n, schedule=Schedule(epochs=epochs)
            )
        )
        variables = train(variables, jnp.asarray(images[:n]), jnp.asarray(labels[:n]))
    return Workload(model, variables, images, labels, source)


def add_data_dir(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds the flag of the folder that contains MNIST."""
    parser.add_argument(
        "--data-dir",
        help="folder of mnist/*-ubyte[.gz]; by default $FKJAX_DATA_DIR, or noise",
    )
    return parser


def torch_labels(torch: Any, labels: np.ndarray) -> Any:
    """Converts labels to a PyTorch tensor of int64."""
    return torch.tensor(labels.astype(np.int64))
