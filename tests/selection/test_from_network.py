"""Problems made from a user's network, compared with those from its outputs."""

import dataclasses

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import fkjax
from fkjax.base import UserError
from fkjax.commands.select import main
from fkjax.data import columns as arrays
from fkjax.selection.choose import choose
from fkjax.selection.from_network import problem_of_network
from tests.tiny import TAPS, tiny

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 5)).astype(np.float32)
POOL = {"images": X[:70]}
VALIDATION = {"images": X[70:], "labels": np.arange(20) % 3}


class Net(flax.linen.Module):
    """Two layers."""

    @flax.linen.compact
    def __call__(self, x):
        """Returns the logits."""
        x = flax.linen.relu(flax.linen.Dense(8, name="hidden")(x))
        return flax.linen.Dense(3, name="logits")(x)


def make_network():
    return nnx.Sequential(
        nnx.Linear(5, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 3, rngs=nnx.Rngs(1))
    )


def test_nnx_and_linen_with_the_same_weights_give_the_same_picks():
    network = make_network()
    layer = network.layers
    variables = {
        "params": {
            name: {"kernel": layer[i].kernel[...], "bias": layer[i].bias[...]}
            for name, i in (("hidden", 0), ("logits", 2))
        }
    }
    of_nnx = fkjax.select(POOL, VALIDATION, network=network, budget=6)
    of_linen = fkjax.select(
        POOL, VALIDATION, network=Net(), variables=variables, budget=6
    )
    assert of_nnx.picks == of_linen.picks
    assert all(p.answers is not None for p in of_nnx.picks)


def test_a_model_of_fkjax_is_a_network_and_may_have_dropout():
    model = tiny((8, 8, 1), 3)
    variables = jax.jit(model.init)(jax.random.key(0))
    images = RNG.integers(0, 256, (30, 8, 8, 1), np.uint8)
    pool = {"images": images[:20], "ids": np.arange(20) + 100}
    known = {"images": images[20:], "labels": np.arange(10) % 3}
    problem = problem_of_network(pool, known, model, variables)
    assert problem.taps == TAPS
    assert problem.pool.dtype == jnp.uint8
    for strategy in ("fisher_nearest", "bald"):
        found = fkjax.select(
            pool, known, network=model, variables=variables, budget=3, strategy=strategy
        )
        assert {p.id for p in found.picks} <= set(range(100, 120))


def test_a_large_pool_is_streamed_to_the_same_picks(monkeypatch):
    network = make_network()
    expected = choose(problem_of_network(POOL, VALIDATION, network), budget=5)
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    problem = problem_of_network(POOL, VALIDATION, network)
    found = choose(dataclasses.replace(problem, batch_size=32), budget=5)
    assert found.indices.tolist() == expected.indices.tolist()


def test_the_command_takes_a_network_by_its_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_net.py").write_text(
        "from flax import nnx\n"
        "def make():\n"
        "    return nnx.Sequential(nnx.Linear(5, 8, rngs=nnx.Rngs(0)), nnx.relu,\n"
        "                          nnx.Linear(8, 3, rngs=nnx.Rngs(1)))\n"
        "made = make()\n"
        "def fails():\n"
        "    raise KeyError('weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    np.savez("pool.npz", **POOL)
    np.savez("validation.npz", **VALIDATION)
    argv = ["--pool", "pool.npz", "--validation", "validation.npz", "--budget", "6"]
    expected = fkjax.select(POOL, VALIDATION, network=make_network(), budget=6)
    for name in ("own_net:make", "own_net:made"):
        assert main([*argv, "--network", name, "--output", "picks.csv"]) == 0
        ids = [line.split(",")[1] for line in open("picks.csv")][1:]
        assert ids == [str(p.id) for p in expected.picks]
    for name, match in (
        ("own_net", "MODULE:NAME"),
        ("own_net:none", "could not be made"),
        ("none:make", "could not be made"),
        ("own_net:fails", "KeyError: 'weights'"),
    ):
        capsys.readouterr()
        assert main([*argv, "--network", name]) == 2
        err = capsys.readouterr().err
        assert match in err and err.count("\n") == 1


def test_the_command_takes_a_checkpoint_of_either_kind(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "import flax.linen as nn\n"
        "from flax import nnx\n"
        "def make():\n"
        "    return nnx.Sequential(nnx.Linear(5, 8, rngs=nnx.Rngs(8)), nnx.relu,\n"
        "                          nnx.Linear(8, 3, rngs=nnx.Rngs(9)))\n"
        "linen = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])\n"
    )
    monkeypatch.chdir(tmp_path)
    np.savez("pool.npz", **POOL)
    np.savez("validation.npz", **VALIDATION)
    network = make_network()
    params = {
        f"layers_{i}": {
            "kernel": network.layers[i].kernel[...],
            "bias": network.layers[i].bias[...],
        }
        for i in (0, 2)
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "nnx", nnx.to_pure_dict(nnx.state(network)))
        checkpointer.save(tmp_path / "linen", {"params": params})
    expected = fkjax.select(POOL, VALIDATION, network=network, budget=6)
    argv = ["--pool", "pool.npz", "--validation", "validation.npz", "--budget", "6"]
    for name, checkpoint in (("nets:make", "nnx"), ("nets:linen", "linen")):
        more = ["--network", name, "--checkpoint", checkpoint, "--output", "picks.csv"]
        assert main([*argv, *more]) == 0
        ids = [line.split(",")[1] for line in open("picks.csv")][1:]
        assert ids == [str(p.id) for p in expected.picks]
    assert main([*argv, "--network", "nets:make", "--checkpoint", "none"]) == 2


@pytest.mark.parametrize(
    ("pool", "validation", "options", "match"),
    [
        ({}, VALIDATION, {}, "pool must have images"),
        (POOL, {"images": X}, {}, "must have labels"),
        ({"images": X[:, 0]}, VALIDATION, {}, "shape"),
        ({"images": np.full(X.shape, "a")}, VALIDATION, {}, "must be numbers, got <U1"),
        ({"images": X[:, 1:]}, VALIDATION, {}, "5.*those of the pool have .*4"),
        (POOL, VALIDATION | {"labels": np.arange(20)}, {}, "classes"),
        (POOL, VALIDATION, {"taps": ["none"]}, "none"),
        (POOL, VALIDATION, {"taps": []}, "taps|layer"),
        (POOL, VALIDATION, {"classes": ["a"]}, "3 classes"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(pool, validation, options, match):
    with pytest.raises(UserError, match=match) as caught:
        problem_of_network(pool, validation, make_network(), **options)
    assert "\n" not in str(caught.value)


def test_a_model_of_fkjax_needs_its_variables():
    with pytest.raises(UserError, match="needs its variables"):
        problem_of_network(POOL, VALIDATION, tiny((8, 8, 1), 3))


def test_a_network_that_ends_in_a_softmax_is_refused():
    network = nnx.Sequential(*make_network().layers, nnx.softmax)
    with pytest.raises(UserError, match="returns probabilities, .* leave out its soft"):
        problem_of_network(POOL, VALIDATION, network)


def test_a_network_that_ends_in_a_sigmoid_is_refused():
    network = nnx.Sequential(*make_network().layers, nnx.sigmoid)
    with pytest.raises(UserError, match="from 0 to 1, .* leave out its sigmoid; if"):
        problem_of_network(POOL, VALIDATION, network)


def test_one_tap_may_be_a_text():
    model = tiny((8, 8, 1), 3)
    variables = jax.jit(model.init)(jax.random.key(0))
    images = np.arange(6 * 64, dtype=np.float32).reshape(6, 8, 8, 1)
    known = {"images": images, "labels": np.arange(6) % 3}
    problem = problem_of_network(
        {"images": images}, known, model, variables, taps=TAPS[0]
    )
    assert problem.taps == (TAPS[0],)
