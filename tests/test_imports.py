"""Imports point down only: the layering, read off the sources."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import fkjax

ROOT = Path(fkjax.__file__).parent

LEVELS = {
    4: "run report select cluster",
    3: "driver config journal experiment testing own_model desk labeling",
    2: "training pretraining evaluation models acquisition datasets idx mat svhn cifar "
    "image_folder tfds decoding files reading records splits reporting tables figures "
    "progress oracle checkpoint distributed memory stopping past_run comparison "
    "statistics analysis findings charts export queried page label_shift "
    "selection_page thumbnail "
    "selection arrays outputs networks "
    "spreadsheet own_images label_studio request answers",
    1: "fisher factored layers neighbors sketch planner projection kernel pseudo_label "
    "pool dropout gram metric embedding images mapping rows ensemble perturbation "
    "information",
    0: "base",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}


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


def room(module):
    """The part of `fkjax.part.module` that the table names."""
    return module.split(".")[1]


INSIDE = [name for name in SOURCES if name != "fkjax"]


def test_every_module_is_in_the_table():
    assert {room(name) for name in INSIDE} <= set(LEVEL)


@pytest.mark.parametrize("name", INSIDE)
def test_a_module_imports_from_its_own_level_or_below(name):
    for other in IMPORTS[name]:
        if other.startswith("fkjax."):
            assert LEVEL[room(other)] <= LEVEL[room(name)], f"{name} imports {other}"


def test_the_package_itself_imports_no_module_of_its_own():
    own = {name for name in IMPORTS["fkjax"] if name.startswith("fkjax")}
    assert own == {"fkjax.select"}  # for type checkers alone
    loaded = [sys.executable, "-c", "import fkjax, sys; print(*sys.modules)"]
    modules = subprocess.run(loaded, capture_output=True, text=True, check=True)
    assert "fkjax" in modules.stdout.split()
    assert not {"jax", "fkjax.select"} & set(modules.stdout.split())


def test_nothing_imports_the_package_as_a_whole():
    assert not [name for name in INSIDE if "fkjax" in IMPORTS[name]]


def test_there_is_no_cycle():
    inside = {name: IMPORTS[name] & set(SOURCES) for name in SOURCES}
    graph = {name: others - {name} for name, others in inside.items()}
    graph["fkjax"] = set()  # see above
    graphlib.TopologicalSorter(graph).prepare()


PURE = set(
    "jax numpy chex typing collections functools itertools math zlib "
    "dataclasses".split()
)
TOUCHES_FILES = set(
    "open print load loadtxt save savez savetxt fromfile tofile".split()
)


# It trains networks of its own; all other acquisition functions are mathematics only.
LEARNS = "fkjax.acquisition.adversarial"
MATHEMATICS = [
    name
    for name in INSIDE
    if LEVEL.get(room(name), 2) <= 1 or (room(name) == "acquisition" and name != LEARNS)
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
    ("library", "rooms"),
    [
        ("flax", {"models", "cluster"}),
        ("optax", {"training", "pretraining", "acquisition"}),
        ("tensorflow_datasets", {"tfds"}),
        ("scipy", {"statistics", "label_shift"}),
        ("PIL", {"decoding", "thumbnail"}),
        ("jinja2", {"page"}),
        ("markupsafe", {"page", "charts"}),
        ("tensorflow", set()),
        ("matplotlib", {"figures", "charts"}),
        ("sklearn", {"datasets"}),
        ("tyro", {"config", "report", "select"}),
        ("rich", {"run", "tables", "progress", "select"}),
        ("safetensors", {"arrays"}),
        ("pyarrow", {"arrays"}),
        ("orbax", {"checkpoint"}),
    ],
)
def test_a_library_is_imported_where_it_is_at_home(library, rooms):
    found = {
        room(name)
        for name in INSIDE
        if any(m.split(".")[0] == library for m in IMPORTS[name])
    }
    assert found <= rooms


# What runs the code that a file holds.
UNSAFE_LIBRARIES = set("pickle cPickle dill cloudpickle joblib shelve marshal".split())
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    *("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.load"),
    *("pickle.load", "pickle.loads", "pandas.read_pickle"),
}
EVERYTHING = [
    path
    for folder in ("fkjax", "benchmarks", "tests")
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
    "module", ["fkjax", "fkjax.run", "fkjax.report", "fkjax.select"]
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
