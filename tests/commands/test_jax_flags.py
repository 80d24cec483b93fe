"""Every command under every flag of JAX: the same choices, and no traceback."""

import contextlib
import json

import jax
import numpy as np
import pytest

import fkjax
import fkjax.commands.report
import fkjax.commands.run
import fkjax.commands.select
from fkjax.acquisition import ORACLES, STRATEGIES
from fkjax.base import seed_key
from fkjax.models import MODELS, Architecture
from fkjax.selection.from_outputs import SUFFICE
from tests.commands.command import SMALL, read_queries
from tests.labeling.session import ROUNDS, World, dense
from tests.selection.test_from_outputs import POOL, VALIDATION
from tests.selection.test_jax_flags import FLAGS
from tests.tiny import ARCHITECTURE, tiny

pytestmark = pytest.mark.slow


def choices(home, digits, flag):
    """Runs all commands below a new folder; returns what each chose."""
    home.mkdir()
    chosen = {}
    np.savez(home / "pool.npz", **POOL)
    np.savez(home / "validation.npz", **VALIDATION)
    with flag():
        for name in SUFFICE:
            picks, page = home / f"{name}.csv", home / f"{name}.html"
            argv = ["--pool", home / "pool.npz", "--validation"]
            argv += [home / "validation.npz", "--budget", 5, "--strategy", name]
            argv += ["--output", picks, "--report", page]
            assert fkjax.commands.select.main(list(map(str, argv))) == 0
            rows = [line.split(",")[:2] for line in picks.read_text().splitlines()]
            chosen["select", "outputs", name] = rows, page.stat().st_size > 0
        for name in set(STRATEGIES) - ORACLES:
            chosen["select", "network", name] = of_network(digits, name)
        for name in STRATEGIES:
            argv = [*SMALL, "--model", "tiny", "--strategies", name]
            argv += ["--output-dir", str(home / name)]
            assert fkjax.commands.run.main(argv) == 0
            chosen["run", name] = read_queries(home / name)
        chosen["report", "run"] = report(home, "random", "margin", "fisher_nearest")
        world, out = World(home, digits), home / "label"
        for number in range(ROUNDS + 1):
            if number:
                world.answer(out)
            assert world.command(out) == 0
        chosen["label"] = read_queries(out)
        chosen["report", "label"] = report(home, "label")
    return chosen


def of_network(digits, strategy):
    model = tiny((8, 8, 1), 10)
    variables = jax.jit(model.init)(seed_key(0))
    images, labels = digits.train_images, digits.train_labels
    selection = fkjax.select(
        {"images": images[:60]},
        {"images": images[60:100], "labels": labels[60:100]},
        network=model,
        variables=variables,
        budget=5,
        strategy=strategy,
    )
    return [(p.id, p.pseudo_label, p.answers) for p in selection.picks]


def report(home, *runs):
    """Returns the number of the rows of a report's table."""
    out = home / f"{runs[0]}-report.csv"
    argv = [*(str(home / run) for run in runs), "--output", str(out)]
    assert fkjax.commands.report.main(argv) == 0
    return len(out.read_text().splitlines())


@pytest.fixture(scope="module", autouse=True)
def models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", ARCHITECTURE)
        patch.setitem(MODELS, "dense", Architecture(dense, ("hidden",), 0.0, 0.0))
        yield


@pytest.fixture(scope="module")
def plain(models, digits, tmp_path_factory):
    home = tmp_path_factory.mktemp("plain") / "home"
    return choices(home, digits, contextlib.nullcontext)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag != "disable_jit"])
def test_a_flag_of_jax_changes_no_choice_of_any_command(flag, plain, digits, tmp_path):
    found = choices(tmp_path / "home", digits, FLAGS[flag])
    differ = [name for name in plain if found[name] != plain[name]]
    print(json.dumps({flag: {"cells": len(plain), "differ": differ}}))
    assert not differ and found.keys() == plain.keys()
