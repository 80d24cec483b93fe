"""Tests the reading of variables that were saved with Orbax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from fkjax.base import UserError
from fkjax.models import as_images, from_module, restore_variables

LIST = getattr(nnx, "List", list)  # not available in flax 0.11


class Net(nnx.Module):
    def __init__(self, seed=0, width=4):
        rngs = nnx.Rngs(seed)
        self.hidden = LIST([nnx.Linear(3, width, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x):
        return self.fc(self.drop(self.norm(self.hidden[0](x))))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(True, name="norm")(nn.Dense(4, name="hidden")(x))
        return nn.Dense(2, name="fc")(x)


X = np.float32([[1, 2, 3], [4, 5, 7]])
SAVERS = {"standard": ocp.StandardCheckpointer, "pytree": ocp.PyTreeCheckpointer}


def save(saver, path, tree):
    with SAVERS[saver]() as checkpointer:
        checkpointer.save(path, tree)


@pytest.fixture(scope="module")
def net():
    module = Net()
    module.norm.mean[...] = jnp.arange(4.0)
    return module


@pytest.fixture(scope="module")
def linen():
    return LinenNet().init(jax.random.key(0), X)


STATES = {
    "state": nnx.state,
    "pure dict": lambda module: nnx.to_pure_dict(nnx.state(module)),
    "no random state": lambda module: nnx.state(
        module, nnx.Any(nnx.Param, nnx.BatchStat)
    ),
}


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("state", STATES)
def test_an_nnx_state_comes_back(saver, state, net, tmp_path):
    save(saver, tmp_path / "saved", STATES[state](net))
    other = Net(seed=1)
    given = restore_variables(tmp_path / "saved", like=other)
    assert set(given["hidden"]) == {0} and "drop" not in given
    model, variables, _ = from_module(other, given, example=X)
    net.eval()
    np.testing.assert_allclose(model.apply(variables, as_images(X)), net(X), rtol=1e-5)
    plain = restore_variables(str(tmp_path / "saved"))
    np.testing.assert_array_equal(plain["norm"]["mean"], np.arange(4))


def test_a_state_says_what_is_wanted_as_its_module_does(net, tmp_path):
    save("standard", tmp_path / "saved", nnx.state(net))
    by_module, by_state = (
        restore_variables(tmp_path / "saved", like=like)
        for like in (net, nnx.state(net))
    )
    jax.tree.map(np.testing.assert_array_equal, by_module, by_state)


@pytest.mark.parametrize("saver", SAVERS)
def test_the_variables_of_a_linen_module_come_back(saver, linen, tmp_path):
    save(saver, tmp_path / "saved", linen)
    shapes = jax.eval_shape(LinenNet().init, jax.random.key(0), X)
    for given in (
        restore_variables(tmp_path / "saved"),
        restore_variables(tmp_path / "saved", like=shapes),
    ):
        model, variables, _ = from_module(LinenNet(), given, example=X)
        np.testing.assert_allclose(
            model.apply(variables, as_images(X)), LinenNet().apply(linen, X), rtol=1e-5
        )


def test_what_stands_beside_the_variables_is_left_out(linen, tmp_path):
    whole = {**linen, "step": np.int32(7), "opt_state": {"mu": linen["params"]}}
    save("pytree", tmp_path / "saved", whole)
    given = restore_variables(tmp_path / "saved", like=linen)
    assert set(given) == {"params", "batch_stats"}


def test_a_leaf_that_is_called_value_keeps_its_name(tmp_path):
    tree = {"params": {"gate": {"value": np.ones(3), "bias": np.zeros(2)}}}
    save("standard", tmp_path / "saved", tree)
    for like in (None, tree):
        given = restore_variables(tmp_path / "saved", like=like)
        jax.tree.map(np.testing.assert_array_equal, given, tree)


def without(tree, *path):
    *above, last = path
    tree = jax.tree.map(lambda x: x, tree)
    node = tree
    for name in above:
        node = node[name]
    return {**tree, above[0]: {k: v for k, v in node.items() if k != last}}


def test_a_tree_that_differs_is_told_by_its_first_leaf(net, linen, tmp_path):
    save("standard", tmp_path / "nnx", nnx.state(net))
    save("standard", tmp_path / "linen", linen)
    for path, like, message in [
        ("nnx", Net(width=5), r"^fc/kernel has shape \(4, 2\) in .*nnx and \(5, 2\)"),
        ("nnx", LinenNet, "must be an NNX module, .* got type"),
        (
            "linen",
            without(linen, "params", "fc"),
            "linen has params/fc/bias, which the module does not have",
        ),
        (
            "linen",
            {**linen, "cache": {"k": np.zeros(2)}},
            r"linen has no cache/k, which has shape \(2,\) in the module",
        ),
        ("linen", net, "linen has no fc/bias"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            restore_variables(tmp_path / path, like=like)
        assert "\n" not in str(error.value)


def test_folders_that_hold_no_checkpoint(linen, tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint .*none: give"):
        restore_variables(tmp_path / "none")
    with pytest.raises(UserError, match="_METADATA: give one that is"):
        restore_variables(tmp_path)
    save("standard", tmp_path / "steps" / "12" / "default", linen)
    with pytest.raises(UserError, match="_METADATA: give 12/default in it"):
        restore_variables(tmp_path / "steps")
    for name in ("a", "b", "c"):
        save("standard", tmp_path / name, linen)
    (tmp_path / "a" / "_METADATA").write_text("{")
    (tmp_path / "b" / "_METADATA").write_text("[]")
    for file in (tmp_path / "c").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    for name in ("a", "b", "c"):
        with pytest.raises(UserError, match="cannot be read by Orbax"):
            restore_variables(tmp_path / name)


def train_state(variables, **more):
    return {"step": np.int32(3), "opt_state": [{"mu": variables["params"]}], **more}


@pytest.mark.parametrize(
    "held",
    [
        lambda v: train_state(v, **v),
        lambda v: train_state(v, params=v),
        lambda v: {"state": train_state(v, **v), "epoch": np.int32(2)},
    ],
    ids=["variables in it", "variables as its params", "beside an epoch"],
)
def test_the_variables_of_a_train_state_are_found(held, linen, tmp_path):
    save("standard", tmp_path / "state", held(linen))
    wanted = jax.tree.leaves(linen)
    for like in (LinenNet(), linen):
        found = restore_variables(tmp_path / "state", like=like)
        assert set(found) == {"params", "batch_stats"}
        for leaf, expected in zip(jax.tree.leaves(found), wanted, strict=True):
            np.testing.assert_array_equal(leaf, expected)
    from_module(
        LinenNet(), restore_variables(tmp_path / "state", LinenNet()), example=X
    )


def test_an_nnx_state_beside_its_optimizer_is_found(net, tmp_path):
    state = nnx.to_pure_dict(nnx.state(net, (nnx.Param, nnx.BatchStat)))
    save("standard", tmp_path / "both", {"model": state, "optimizer": {"mu": X}})
    found = restore_variables(tmp_path / "both", like=net)
    np.testing.assert_array_equal(found["norm"]["mean"], np.arange(4.0))


def test_what_a_checkpoint_holds_is_named(linen, net, tmp_path):
    save("standard", tmp_path / "twice", {"first": linen, "ema": linen, "step": X})
    for like in (LinenNet(), linen):
        with pytest.raises(UserError, match="ema.*first|first.*ema"):
            restore_variables(tmp_path / "twice", like=like)
    save("standard", tmp_path / "none", {"weights": X, "step": X})
    for like in (LinenNet(), linen, net):
        with pytest.raises(UserError, match="holds (weights, step|step, weights)"):
            restore_variables(tmp_path / "none", like=like)
