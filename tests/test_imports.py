"""Imports point one way: the order of the packages, read off the sources."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import fkjax

ROOT = Path(fkjax.__file__).parent

ORDER = (
    "base label_shift fisher parallel files sketch data models runs training "
    "acquisition experiment selection testing report labeling commands"
).split()
"""The packages: each imports from its left alone, and from itself."""

DOORS = {"fkjax.run", "fkjax.select", "fkjax.label", "fkjax.report.__main__"}
"""What `python -m` runs. None is imported: `fkjax.select` is a function."""


def module_name(path):
    parts = ["fkjax", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(source):
    """Every module that a source names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module


IMPORTS = {name: set(imported(path.read_text())) for name, path in SOURCES.items()}


def package(module):
    """The part of `fkjax.part.module` that the order names."""
    return module.split(".")[1]


INSIDE = [name for name in SOURCES if name not in {"fkjax", "fkjax.__main__", *DOORS}]


def test_every_package_is_in_the_order_and_has_a_folder_of_tests():
    assert {package(name) for name in INSIDE} == set(ORDER)
    tests = ROOT.parent / "tests"
    for name in ORDER:
        is_folder = (ROOT / name).is_dir()
        assert (tests / (name if is_folder else f"test_{name}.py")).exists(), name


@pytest.mark.parametrize("name", INSIDE)
def test_a_module_imports_from_its_own_package_or_those_before_it(name):
    for other in IMPORTS[name]:
        if other.startswith("fkjax."):
            is_before = ORDER.index(package(other)) <= ORDER.index(package(name))
            assert is_before, f"{name} imports {other}"


def test_doors_are_not_imported_and_three_lines_long():
    for path in EVERYTHING:
        assert not set(imported(path.read_text())) & DOORS, path
    for name in DOORS:
        tree = ast.parse(SOURCES[name].read_text())
        docstring, *statements = tree.body
        assert len(statements) == 3, name


def test_no_file_is_longer_than_400_lines():
    for folder in (ROOT, ROOT.parent / "tests", ROOT.parent / "benchmarks"):
        for path in sorted(folder.rglob("*.py")):
            assert path.read_text().count("\n") <= 400, path


def test_nothing_imports_the_package_as_a_whole():
    assert not [name for name in INSIDE if "fkjax" in IMPORTS[name]]


def test_a_type_has_a_name_of_its_own():
    homes = {}
    for name in INSIDE:
        for node in ast.parse(SOURCES[name].read_text()).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                alias = node.targets[0].id
                if alias[0].isupper() and not alias.isupper():
                    homes.setdefault(alias, []).append(name)
    shared = {kind: where for kind, where in homes.items() if len(where) > 1}
    # Each command has options of its own.
    assert set(shared) <= {"Options"}, shared


def test_only_files_explains_an_os_error():
    for name in INSIDE:
        if "explained" in SOURCES[name].read_text():
            assert package(name) == "files", name


def test_there_is_no_cycle():
    inside = {name: IMPORTS[name] & set(SOURCES) for name in SOURCES}
    graph = {name: others - {name} for name, others in inside.items()}
    graph["fkjax"] = set()  # see above
    graphlib.TopologicalSorter(graph).prepare()


PURE = set(
    "jax numpy chex typing collections functools itertools math zlib "
    "dataclasses difflib inspect".split()
)
TOUCHES_FILES = set(
    "open print load loadtxt save savez savetxt fromfile tofile".split()
)


# What trains networks of its own; all other acquisition functions are mathematics only.
LEARNS = {"fkjax.acquisition.adversarial", "fkjax.acquisition.vae"}
MATHEMATICS = [
    name
    for name in INSIDE
    if package(name) in ("base", "fisher", "sketch", "acquisition")
    and name not in LEARNS
]
MATHEMATICS += [
    f"fkjax.{name}"
    for name in (
        *("parallel.examples", "parallel.rows", "parallel.mapping"),
        *("models.ensemble", "models.dropout", "experiment.pool"),
    )
]


@pytest.mark.parametrize("name", MATHEMATICS)
def test_the_mathematics_touches_neither_network_nor_file(name):
    assert {m.split(".")[0] for m in IMPORTS[name]} - {"fkjax"} <= PURE
    called = {
        getattr(node.func, "attr", getattr(node.func, "id", None))
        for node in ast.walk(ast.parse(SOURCES[name].read_text()))
        if isinstance(node, ast.Call)
    }
    assert not called & TOUCHES_FILES


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("flax", "models acquisition.vae parallel.processes"),
        ("optax", "training acquisition.adversarial"),
        ("tensorflow_datasets", "data.tfds"),
        ("scipy", "report.statistics label_shift"),
        ("PIL", "data.decoding report.html"),
        ("jinja2", "report.html"),
        ("markupsafe", "report.html report.run_page report.charts"),
        ("tensorflow", ""),
        ("matplotlib", "report"),
        ("sklearn", "data.datasets"),
        ("tyro", "commands experiment.config"),
        ("rich", "commands report.tables experiment.progress"),
        ("safetensors", "data.array_files"),
        ("pyarrow", "data.arrow data.parquet"),
        ("h5py", "data.array_files"),
        ("zarr", "data.array_files"),
        ("orbax", "files.checkpoint"),
    ],
)
def test_a_library_is_imported_where_it_is_at_home(library, homes):
    for name in INSIDE:
        if any(m.split(".")[0] == library for m in IMPORTS[name]):
            module = name.removeprefix("fkjax.")
            is_at_home = any(f"{module}.".startswith(f"{h}.") for h in homes.split())
            assert is_at_home, f"{name} imports {library}"


# What runs the code that a file holds.
UNSAFE_LIBRARIES = set("pickle cPickle dill cloudpickle joblib shelve marshal".split())
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    *("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.load"),
    *("pickle.load", "pickle.loads", "pandas.read_pickle"),
}
EVERYTHING = [
    path
    for folder in ("fkjax", "benchmarks", "examples", "tests")
    for path in sorted((ROOT.parent / folder).rglob("*.py"))
    if path.name != "test_docs.py"  # which runs what the pages show
]


def unsafe(source):
    """What could run the code that a file holds, line by line."""
    tree = ast.parse(source)
    aliases = {"np": "numpy", "pd": "pandas"}
    for name in imported(source):
        if name.split(".")[0] in UNSAFE_LIBRARIES:
            yield f"import {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        first, _, rest = called.partition(".")
        called = f"{aliases.get(first, first)}.{rest}" if rest else called
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in UNSAFE_CALLS | UNSAFE_METHODS:
            yield f"{node.lineno}: {called}"
        if called == "numpy.load" and given.get("allow_pickle") != "False":
            yield f"{node.lineno}: numpy.load that may unpickle"
        if given.get("allow_pickle") == "True" or given.get("shell") == "True":
            yield f"{node.lineno}: {called}({given})"


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: path.name)
def test_no_source_runs_what_a_file_holds(path):
    assert not list(unsafe(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "eval(text)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(file)",
        "torch.load(path)",
        "np.save(path, x, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_runs_code_is_found(source):
    assert len(list(unsafe(source))) >= 1


def test_what_runs_no_code_is_not_reported():
    assert not list(
        unsafe("np.load(p, allow_pickle=False)\nmodel.eval()\njson.load(f)")
    )


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\ndef f():\n    from fkjax import run, models\n"
    assert set(imported(source)) == {"a.b", "fkjax.run", "fkjax.models"}


@pytest.mark.parametrize(
    "module",
    ["fkjax", *(f"fkjax.commands.{name}" for name in ("run", "report", "select"))],
)
def test_importing_loads_neither_tensorflow_nor_matplotlib(module):
    heavy = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "PIL")
    heavy += ("scipy.io", "orbax", "pyarrow", "safetensors")
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert module in loaded
    assert not set(heavy) & set(loaded)
