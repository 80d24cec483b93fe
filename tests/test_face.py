"""What `import fkjax` shows, and what it loads."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fkjax
import fkjax.acquisition
import fkjax.fisher
import fkjax.label_shift
import fkjax.sketch


def test_the_names_are_few_and_all_there():
    names = [name for name in dir(fkjax) if name != "__version__"]
    assert 20 <= len(names) <= 30
    assert names == sorted(fkjax._HOME)
    assert {*fkjax.__all__} == {*dir(fkjax)}
    for name in names:
        assert getattr(fkjax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = fkjax.selekt


def test_editors_see_the_same_names():
    tree = ast.parse(Path(fkjax.__file__).read_text())
    found = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fkjax.")
        for alias in node.names
    }
    assert found == {name: f"fkjax.{home}" for name, home in fkjax._HOME.items()}


def test_select_is_a_function_with_a_signature():
    assert inspect.isfunction(fkjax.select)
    parameters = inspect.signature(fkjax.select).parameters
    assert list(parameters)[:3] == ["pool", "validation", "budget"]


def loaded(statement):
    command = [sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_loads_no_jax_and_select_no_libraries_of_pages():
    assert not {"jax", "numpy", "flax"} & loaded("import fkjax; dir(fkjax)")
    pages = {"scipy", "jinja2", "rich", "tyro", "matplotlib", "PIL", "sklearn"}
    after = loaded("from fkjax import select")
    assert "jax" in after
    # JAX imports parts of scipy by itself.
    assert not (pages - loaded("import jax, flax, optax")) & after


@pytest.mark.parametrize(
    "package",
    [fkjax.acquisition, fkjax.fisher, fkjax.label_shift, fkjax.sketch],
    ids=lambda package: package.__name__,
)
def test_a_package_has_the_names_that_it_lists(package):
    assert len(package.__all__) == len({*package.__all__})
    for name in package.__all__:
        assert hasattr(package, name)
