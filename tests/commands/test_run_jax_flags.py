"""Runs under JAX's own flags: the same queries, and no traceback."""

import pytest

import fkjax.commands.run
from fkjax.models import MODELS
from tests.commands.command import SMALL, read_queries
from tests.selection.test_jax_flags import USUAL
from tests.tiny import ARCHITECTURE

ARGV = [*SMALL, "--rounds", "1", "--model", "tiny", "--strategies", "margin"]


@pytest.mark.parametrize("flag", [flag for flag in USUAL if flag != "disable_jit"])
def test_a_flag_of_jax_does_not_change_a_run(flag, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", ARCHITECTURE)
    folders = tmp_path / "plain", tmp_path / "flagged"
    assert fkjax.commands.run.main([*ARGV, "--output-dir", str(folders[0])]) == 0
    with USUAL[flag]():
        assert fkjax.commands.run.main([*ARGV, "--output-dir", str(folders[1])]) == 0
    assert read_queries(folders[0]) == read_queries(folders[1])
