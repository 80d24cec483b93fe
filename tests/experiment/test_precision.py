"""NaN and infinity end a run with an error; float64 agrees with float32."""

import csv
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fkjax.commands.run
from fkjax.acquisition.pseudo_label import argmax
from fkjax.data import splits
from fkjax.experiment import play
from fkjax.fisher.descriptors import descriptor
from fkjax.fisher.kernel import pearson_features
from fkjax.models import MODELS, lenet
from tests.commands.command import HELD_OUT
from tests.tiny import ARCHITECTURE

SMALL = (
    "--seeds 1 --rounds 2 --budget 5 --epochs 2 --pretraining none "
    "--validation-size 100 --strategies fisher_nearest --model tiny"
).split() + HELD_OUT


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)


def test_a_training_that_diverges_names_its_images(tmp_path, capsys, digits):
    folder = tmp_path / "run"
    argv = [*SMALL, "--learning-rate", "1e30", "--output-dir", str(folder)]
    assert fkjax.commands.run.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fisher_nearest, seed 0, round 1: training led to NaN or infinity" in line
    ids = [int(x) for x in line.split("(ids ")[1].split(")")[0].split(", ")]
    parts = splits.split(
        jax.random.key(0), digits, validation_size=100, imbalance_ratio=10.0
    )
    assert len(ids) == 5 and set(ids) <= set(parts.pool.ids.tolist())
    assert not (folder / "rounds.jsonl").exists()


def test_a_pretraining_that_diverges_is_told(capsys):
    argv = [*SMALL, "--pretraining", "rotation", "--pretraining-epochs", "1"]
    assert fkjax.commands.run.main([*argv, "--learning-rate", "1e30"]) == 2
    assert "--pretraining rotation led to NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("strategy", "name", "part"),
    [
        ("fisher_nearest", "conv1", "100 validation image(s)"),
        ("margin", "fc2", " pool image(s)"),
    ],
)
def test_embeddings_that_are_not_finite_are_named(
    strategy, name, part, monkeypatch, capsys
):
    """The weights become infinite by the second query."""
    play_round = play.play.__globals__["play_round"]

    def spoiled(driver, strategy, state, *args, **kwargs):
        if state.pool.round > 0:
            state.variables.parameters[name]["bias"] += jnp.inf
        return play_round(driver, strategy, state, *args, **kwargs)

    monkeypatch.setitem(play.play.__globals__, "play_round", spoiled)
    argv = [*SMALL, "--strategies", strategy]
    assert fkjax.commands.run.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{strategy}, seed 0, round 2: the embeddings or scores of" in line
    assert part in line
    assert "NaN or infinite" in line


def test_float64_makes_the_same_draws_and_agrees(tmp_path):
    """No draw depends on the precision, so small differences stay small."""
    found = {}
    for precision in ("float32", "float64"):
        folder = tmp_path / precision
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", FutureWarning
            )  # warns of types that do not match
            options = ["--precision", precision, "--output-dir", str(folder)]
            assert fkjax.commands.run.main([*SMALL, *options]) == 0
        with (folder / "queries.csv").open() as file:
            queries = [tuple(row.values()) for row in csv.DictReader(file)]
        records = [json.loads(x) for x in (folder / "rounds.jsonl").open()]
        found[precision] = queries, records
    assert found["float32"][0] == found["float64"][0]
    for one, other in zip(found["float32"][1], found["float64"][1], strict=True):
        assert abs(one["test_accuracy"] - other["test_accuracy"]) < 0.01
    assert not jax.config.jax_enable_x64


def test_float32_embeddings_are_float64_to_five_digits(digits):
    """For 500 images: rows have length sqrt(2 (L - 3)), about 12."""
    model = lenet((8, 8, 1), 10)

    def embeddings():
        variables = jax.jit(model.init)(jax.random.key(0))
        variables = jax.tree.map(lambda x: x.astype(float), variables)

        def one(image):
            d = descriptor(
                model, variables, image, argmax(), taps=("conv1", "conv2", "fc1")
            )
            return pearson_features(d.z, d.g)

        return np.asarray(
            jax.jit(jax.vmap(one))(jnp.asarray(digits.train_images[:500]))
        )

    low = embeddings()
    with jax.enable_x64(True):
        high = embeddings()
    assert (low.dtype, high.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(low, high, rtol=0, atol=2e-4)
    assert np.abs(low @ low.T - high @ high.T).max() < 1e-3
