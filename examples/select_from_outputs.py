"""Chooses what to label next from the outputs of a network of another library.

`fkjax.select` reads two arrays: the features, which are the input of the network's last
layer, and the logits, which are its output. This script trains a small network, saves
both arrays for a biased pool and for a validation set, and reads the choice from those
files. From the files on, fkjax never sees the network.

With PyTorch installed, the network is a `torch.nn.Sequential`. Without it, which is how
the tests run this script, scikit-learn trains a network of the same shape; the files
have the same form.

    python examples/select_from_outputs.py
"""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fkjax

CLASSES = ("left", "right", "top")
CENTERS = np.array([[-1.5, 0.0], [1.5, 0.0], [0.0, 2.0]], np.float32)

Outputs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From inputs [N, 2] to features [N, 16] and logits [N, 3]."""


def points(rng: np.random.Generator, counts: list[int]) -> tuple[np.ndarray, ...]:
    """Draws points around the center of each class, and their labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    x = CENTERS[labels] + rng.normal(0, 0.5, (len(labels), 2))
    return x.astype(np.float32), labels


def torch_network(x: np.ndarray, labels: np.ndarray) -> Outputs:
    """Trains a network in PyTorch."""
    import torch

    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU())
    last = torch.nn.Linear(16, len(CLASSES))
    network = torch.nn.Sequential(body, last)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    inputs, targets = torch.as_tensor(x), torch.as_tensor(labels)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    network.eval()  # no dropout, no statistics of the batch

    def outputs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            features = body(torch.as_tensor(x))
            return features.numpy(), last(features).numpy()

    return outputs


def sklearn_network(x: np.ndarray, labels: np.ndarray) -> Outputs:
    """Trains a network of the same shape in scikit-learn."""
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(
        (16,), solver="lbfgs", alpha=0.01, max_iter=1000, random_state=0
    )
    network.fit(x, labels)

    def outputs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (weights, last_weights), (bias, last_bias) = network.coefs_, network.intercepts_
        features = np.maximum(x @ weights + bias, 0)
        return features, features @ last_weights + last_bias

    return outputs


def main() -> None:
    """Trains, saves the outputs, and prints the choice."""
    rng = np.random.default_rng(0)
    pool, hidden = points(rng, [500, 500, 20])  # "top" is rare here
    validation, labels = points(rng, [40, 40, 40])  # as in deployment
    labeled = [*range(10), *range(500, 510), 1000]

    has_torch = importlib.util.find_spec("torch") is not None
    train = torch_network if has_torch else sklearn_network
    outputs = train(pool[labeled], hidden[labeled])
    print("network of", "PyTorch" if has_torch else "scikit-learn")

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "pool.npz"), Path(folder, "validation.npz")
        features, logits = outputs(pool)
        np.savez(files[0], features=features, logits=logits)
        features, logits = outputs(validation)
        np.savez(files[1], features=features, logits=logits, labels=labels)
        selection = fkjax.select(
            *files, budget=20, labeled=labeled, classes=CLASSES, seed=0
        )

    for pick in selection.picks[:3]:
        print(pick.id, pick.reason)
    num_rare = sum(CLASSES[hidden[pick.id]] == "top" for pick in selection.picks)
    print(f"{num_rare} of 20 picks are of the rare class, 2 % of the pool")


if __name__ == "__main__":
    main()
