"""Each preset, in two tiny rounds from files of the real format, by small networks."""

import functools
import gzip
import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

import fkjax.commands.run
from fkjax.models import MODELS, resnet10, resnet18
from tests.tiny import ARCHITECTURE, TAPS

TINY = (
    "--rounds 2 --budget 4 --seeds 1 --epochs 1 --pretraining-epochs 1 --batch-size 8 "
    "--validation-size 20 --imbalance-ratio 2"
).split()


def write_mnist(folder):
    rng = np.random.default_rng(0)
    for stem, count in (("train", 80), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        for kind, array in (("images", pixels), ("labels", np.arange(count) % 10)):
            head = bytes([0, 0, 8, array.ndim])
            head += b"".join(n.to_bytes(4, "big") for n in array.shape)
            name = f"{stem}-{kind}-idx{array.ndim}-ubyte.gz"
            path = folder / "mnist" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def write_svhn(folder):
    rng = np.random.default_rng(1)
    (folder / "svhn").mkdir()
    for part, count in (("train", 50), ("extra", 30), ("test", 20)):
        pixels = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = (1 + np.arange(count) % 10).astype(np.uint8)[:, None]
        path = folder / "svhn" / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels, "y": labels})


def write_imagenet(folder):
    rng = np.random.default_rng(2)
    for part, count in (("train", 20), ("val", 4)):
        for c in range(4):
            of_class = folder / "imagenet" / part / f"n0{c}"
            of_class.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40 + i, 50, 3), np.uint8)
                Image.fromarray(pixels).save(of_class / f"{i}.JPEG")


@pytest.mark.parametrize(
    ("preset", "write", "flags"),
    [
        ("paper-mnist", write_mnist, []),
        ("paper-svhn", write_svhn, ["--pretraining", "none"]),
        ("paper-imagenet", write_imagenet, ["--image-size", "32"]),
    ],
)
@pytest.mark.parametrize(
    "networks", ["tiny", pytest.param("thin", marks=pytest.mark.integration)]
)
def test_a_preset_runs(networks, preset, write, flags, tmp_path, monkeypatch, capsys):
    for name, make in (("resnet10_7x7", resnet10), ("resnet18", resnet18)):
        thin = functools.partial(make, width=2, stem="imagenet")
        monkeypatch.setitem(MODELS, name, MODELS[name]._replace(make=thin))
    if networks == "tiny":
        for name in ("lenet", "resnet10_7x7", "resnet18"):
            monkeypatch.setitem(MODELS, name, ARCHITECTURE)
        flags = [*flags, "--taps", *TAPS]
    write(tmp_path)
    folder = tmp_path / "run"
    flags = [*flags, "--data-dir", str(tmp_path), "--output-dir", str(folder)]
    flags += ["--strategies", "fisher_nearest"]
    assert fkjax.commands.run.main(["--preset", preset, *TINY, *flags]) == 0
    assert capsys.readouterr().err == ""
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["num_labeled"] for r in records] == [4, 8]
    config = json.loads((folder / "config.json").read_text())
    assert config["preset"] == preset and config["budget"] == 4
    assert config["dataset"] == preset.removeprefix("paper-")
