"""Fixtures for data, shared by all tests; and how JAX compiles for them."""

import atexit
import importlib.util
import mmap
import os
import shutil
import tempfile
from pathlib import Path

# Programs that several tests compile are compiled once, whichever worker or command
# comes first: the workers and the processes that tests start inherit the variable. It
# is read when JAX is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="fkjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)

# Compiling takes most of the time of the tests, and they compute little: XLA leaves out
# what makes programs fast, if it has these flags; it ends the process at unknown ones.
# `FKJAX_TESTS_OPTIMIZE=1` compiles as a user's program is.
_FAST_TO_COMPILE = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
}


def _known(flag: str) -> bool:
    folder = Path(importlib.util.find_spec("jaxlib").origin).parent
    for path in folder.glob("*.so"):
        with path.open("rb") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data.find(flag.encode()) >= 0:
                    return True
    return False


_flags = os.environ.get("XLA_FLAGS", "")
if "FKJAX_TESTS_OPTIMIZE" not in os.environ:
    for _flag, _value in _FAST_TO_COMPILE.items():
        if _flag not in _flags and _known(_flag):
            _flags += f" --{_flag}={_value}"
    os.environ["XLA_FLAGS"] = _flags

# An array is broadcast to more axes only where the code says so.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax
import pytest
from hypothesis import settings

from fkjax.data import datasets, splits

# No deadlines: a busy machine is no failure. `tests/hostile.py` looks for hangs itself.
settings.register_profile("usual", deadline=None)
settings.load_profile("usual")
settings.register_profile("thorough", max_examples=5_000, deadline=None)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The data folder that holds `mnist/`; skips where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FKJAX_DATA_DIR", beside))
    if not any((folder / "mnist").glob("train-images-idx3-ubyte*")):
        pytest.skip(f"no MNIST in {folder}/mnist; name a folder by FKJAX_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def mnist(mnist_dir: Path) -> datasets.Dataset:
    return datasets.load("mnist", data_dir=mnist_dir)


@pytest.fixture(scope="session")
def digits() -> datasets.Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="session")
def digits_splits(digits: datasets.Dataset) -> splits.Splits:
    return splits.split(
        jax.random.key(0),
        digits,
        validation_size=300,
        tuning_size=100,
        imbalance_ratio=10.0,
    )
