"""Fixtures for data, shared by all tests; and how JAX compiles for them."""

import atexit
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
# what makes programs fast. `FKJAX_TESTS_OPTIMIZE=1` compiles as a user's program is.
if "FKJAX_TESTS_OPTIMIZE" not in os.environ:
    _flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_backend_optimization_level=0"

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
