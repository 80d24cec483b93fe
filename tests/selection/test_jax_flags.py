"""Selection under JAX's own flags: the same picks, and no traceback."""

import contextlib

import jax
import numpy as np
import pytest

import fkjax
from fkjax.selection.from_outputs import SUFFICE
from tests.acquisition.outputs import GREEDY
from tests.selection.test_from_outputs import POOL, VALIDATION

USUAL = {
    "enable_x64": lambda: jax.enable_x64(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "numpy_rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "default_matmul_precision": lambda: jax.default_matmul_precision("highest"),
    "disable_jit": jax.disable_jit,
}
OTHER = {
    "debug_infs": lambda: jax.debug_infs(True),
    "debug_key_reuse": lambda: jax.debug_key_reuse(True),
    "check_tracer_leaks": jax.checking_leaks,
    "numpy_dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "matmul_in_bfloat16": lambda: jax.default_matmul_precision("BF16_BF16_F32"),
    "default_prng_impl": lambda: jax.default_prng_impl("rbg"),
}
FLAGS = USUAL | OTHER
SMALL = {name: rows[:60] for name, rows in POOL.items()}


def picked(strategy, flag=contextlib.nullcontext):
    with flag():
        selection = fkjax.select(SMALL, VALIDATION, budget=5, strategy=strategy)
    return selection.indices.tolist(), selection.targets.tolist()


def mark_of(strategy):
    # Of those that share one query, one is enough, except by hand.
    if strategy in GREEDY[1:]:
        return pytest.mark.slow
    is_cheap = strategy in ("random", "margin", "fisher_nearest")
    return () if is_cheap else pytest.mark.integration


EACH = [pytest.param(name, marks=mark_of(name)) for name in SUFFICE]
WITHOUT_JIT = pytest.param("disable_jit", marks=pytest.mark.integration)
COMPILED = [flag for flag in USUAL if flag != "disable_jit"]


@pytest.mark.parametrize("strategy", EACH)
@pytest.mark.parametrize("flag", [*COMPILED, WITHOUT_JIT])
def test_a_flag_of_jax_does_not_change_the_picks(strategy, flag):
    assert picked(strategy, FLAGS[flag]) == picked(strategy)


@pytest.mark.parametrize("strategy", ["random", "fisher_nearest"])
@pytest.mark.parametrize("flag", OTHER)
def test_nor_does_another_flag(strategy, flag):
    assert picked(strategy, OTHER[flag]) == picked(strategy)


@pytest.mark.parametrize("flag", USUAL)
def test_nan_in_the_pool_is_named_under_each_flag(flag):
    broken = SMALL | {"features": SMALL["features"].copy()}
    broken["features"][7] = np.nan
    with FLAGS[flag](), pytest.raises(fkjax.UserError, match="NaN"):
        fkjax.select(broken, VALIDATION, budget=5)
