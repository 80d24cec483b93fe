"""The examples in docstrings run, and print what they show."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import fkjax

ROOT = Path(fkjax.__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("fkjax", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^ *>>> ", path.read_text(), re.MULTILINE)
}


def test_there_are_examples():
    assert {"fkjax.base", "fkjax.fisher.vectors"} < MODULES


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_examples_of_a_module_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
