"""A finished labeling session, and copies of its folder."""

import shutil

import pytest

from fkjax.models import MODELS, Architecture
from tests.labeling.session import ROUNDS, World, dense


@pytest.fixture(scope="session")
def world(tmp_path_factory, digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "dense", Architecture(dense, ("hidden",), 0.0, 0.0))
        yield World(tmp_path_factory.mktemp("labelling"), digits)


@pytest.fixture(scope="session")
def loop(world, tmp_path_factory):
    """A folder as it was after each command, the first without answers."""
    home = tmp_path_factory.mktemp("loop")
    out = home / "out"
    for number in range(ROUNDS + 1):
        if number:
            world.answer(out)
        assert world.command(out) == 0
        shutil.copytree(out, home / f"after-{number}")
    return home


@pytest.fixture
def after(loop, tmp_path):
    """Copies the folder after a command, always to the same place."""

    def after(number):
        out = tmp_path / "out"
        shutil.copytree(loop / f"after-{number}", out)
        return out

    return after
