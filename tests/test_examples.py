"""Every script in examples/ runs, and does what its text says."""

import re
import runpy
from pathlib import Path

import jax
import pytest

from fkjax.acquisition import STRATEGIES

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script as `python` does, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    before = dict(STRATEGIES)

    def run(name):
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        assert not list(tmp_path.iterdir()), "it leaves files"
        return capsys.readouterr().out

    with jax.numpy_rank_promotion("allow"):  # which is how JAX comes
        yield run
    STRATEGIES.clear()
    STRATEGIES.update(before)


@pytest.mark.integration
def test_picks_from_outputs_are_of_the_rare_class(run):
    printed = run("select_from_outputs.py")
    assert "Similar to validation example" in printed
    (found,) = re.findall(r"^(\d+) of 20 picks", printed, re.M)
    assert int(found) >= 4  # at random, 0.4 of 20


@pytest.mark.integration
def test_a_strategy_of_your_own_passes_the_check_and_finds_the_rare_class(run):
    printed = run("own_strategy.py")
    assert "keeps the contract" in printed
    found = dict(re.findall(r"^(\w+): (\d+) of 10 picks", printed, re.M))
    assert int(found["rare_by_model"]) > int(found["random"]) + 5


@pytest.mark.integration
def test_a_sketch_is_near_the_fisher_vectors(run):
    printed = run("fisher_sketch.py")
    ((num, error),) = re.findall(r"^([\d,]+) numbers .* error ([\d.]+)$", printed, re.M)
    assert num == "9,907" and float(error) < 0.25
    assert re.search(r"are examples \[.*\] of \[0 0 0 0 0\]$", printed, re.M)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_only_what_there_is(name, run):
    found = runpy.run_path(str(FOLDER / name), run_name="imported")
    assert callable(found["main"])


def test_every_script_is_tested_and_listed():
    tests, listed = Path(__file__).read_text(), (FOLDER / "README.md").read_text()
    for name in SCRIPTS:
        assert f'run("{name}")' in tests, name
        assert f"examples/{name}" in listed, name
