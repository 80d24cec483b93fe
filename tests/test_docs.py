"""Every command and every line of Python of the README and the site runs as printed.

A page is run from top to bottom in a folder of its own: Python in one namespace,
commands of fkjax by their `main` in this process. Three things are not as printed.
`fkjax run` gets `FASTER` flags at its end; `pip install` is not run, but what
it names must be there to install; and a block below a line `*Not run by the tests:
reason.*` is skipped for that reason. What is fenced as text is not run.
"""

import ast
import collections
import contextlib
import functools
import html.parser
import importlib
import io
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import jax
import pytest

import fkjax
from fkjax.acquisition import STRATEGIES
from fkjax.models import MODELS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "reference").glob("*.md"))
FASTER = "--seeds 1 --rounds 1 --epochs 2 --pretraining none".split()
TOO_SLOW = {"python -m pytest": "these are the tests"}


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    why_not: str


def blocks(page):
    source = page.read_text()
    fence = r"(?:^\*Not run by the tests: ([^*]+)\.\*\n\n)?^```([^\n]*)\n(.*?)^```$"
    for found in re.finditer(fence, source, re.M | re.S):
        line = source[: found.start(2)].count("\n") + 1
        name = str(page.relative_to(ROOT))
        yield Block(name, line, found[2], found[3], found[1] or "")


ALL = {str(page.relative_to(ROOT)): list(blocks(page)) for page in PAGES}
RUNNABLE = ("python", "bash")
SHOWN = ("text", "mermaid", "{toctree}", "{eval-rst}")
SKIPPED = [b for found in ALL.values() for b in found if b.why_not]


def commands(text):
    """The commands of a bash block, one by one."""
    lines = text.replace("\\\n", " ").splitlines()
    for line in lines:
        for command in line.split(" && "):
            if command.strip() and not command.startswith("#"):
                yield command.strip()


def run_command(command):
    words = shlex.split(command)
    if words[:4] == ["python", "-m", "pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        (name,) = [word for word in words[4:] if not word.startswith("-")]
        path, extra = re.fullmatch(r"(\.|fkjax)(?:\[(\w+)\])?", name).groups()
        assert extra is None or extra in project["optional-dependencies"], command
    elif any(command.startswith(slow) for slow in TOO_SLOW):
        pass
    elif words[0] == "fkjax":
        main = importlib.import_module(f"fkjax.commands.{words[1]}").main
        faster = {"run": FASTER, "label": FASTER[2:]}.get(words[1], [])
        assert main([*words[2:], *faster]) == 0, command
    elif words[:2] == ["python", "-m"] and words[2].startswith("fkjax."):
        main = importlib.import_module(words[2]).main
        faster = FASTER if words[2] == "fkjax.run" else []
        assert main([*words[3:], *faster]) == 0, command
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)


@pytest.fixture
def registries():
    """Pages add to them; and they may broadcast as NumPy does."""
    before = dict(MODELS), dict(STRATEGIES)
    with jax.numpy_rank_promotion("allow"):
        yield
    for registry, old in zip((MODELS, STRATEGIES), before, strict=True):
        registry.clear()
        registry.update(old)


def check_readme(names):
    """The output that the page shows."""
    reason = names["pick"].reason
    assert f"{names['pick'].id} - {reason}" in (ROOT / "README.md").read_text()


def check_python(names):
    assert names["R"].shape == (100, 100)
    assert names["sketches"].shape == (100, 512)


def check_tutorial(names):
    """What the page says of the numbers that it shows."""
    random, matched = names["curves"]["random"], names["curves"]["fisher_nearest"]
    assert random[0] == matched[0] and matched[-1] > random[-1] + 0.05
    assert len(names["selection"].picks) == 10
    assert Path("picks.csv").read_text().count("\n") == 11


CHECKS = {
    "README.md": check_readme,
    "docs/python.md": check_python,
    "docs/tutorial.md": check_tutorial,
}


WITH_CODE = [
    p for p, found in ALL.items() if any(b.language in RUNNABLE for b in found)
]


@functools.cache
def flags_of(module):
    """The flags of a command, by its own help."""
    name = f"{module}.__main__" if module == "fkjax.report" else module
    main = importlib.import_module(name).main
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with pytest.raises(SystemExit):
            main(["--help"])
    return set(re.findall(r"--[a-z][a-z-]*", out.getvalue()))


@pytest.mark.parametrize("page", WITH_CODE)
def test_a_page_names_only_what_there_is(page):
    """Its Python compiles, and every name of fkjax and every flag in it is one."""
    for block in ALL[page]:
        if block.language == "python":
            tree = ast.parse(block.text)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("fkjax"):
                    module = importlib.import_module(node.module)
                    for alias in node.names:
                        path = f"{node.module}.{alias.name}"
                        if not hasattr(module, alias.name):
                            importlib.import_module(path)
                elif isinstance(node, ast.Import):
                    for alias in node.names:
                        if alias.name.split(".")[0] == "fkjax":
                            importlib.import_module(alias.name)
        elif block.language == "bash":
            for command in commands(block.text):
                words = shlex.split(command)
                if words[:2] == ["python", "-m"] and words[2].startswith("fkjax."):
                    flags = {w.split("=")[0] for w in words if w.startswith("--")}
                    assert flags <= flags_of(words[2]), command


@pytest.mark.integration
@pytest.mark.parametrize("page", WITH_CODE)
def test_a_page_runs(page, registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # where Flax and dataclasses look for a class
    monkeypatch.setitem(sys.modules, "page", module)
    for block in ALL[page]:
        if block.why_not or block.language not in RUNNABLE:
            continue
        if block.language == "python":
            lines = (
                "\n" * block.line + block.text
            )  # so that errors name the page's line
            exec(compile(lines, ROOT / block.page, "exec"), vars(module))
        else:
            for command in commands(block.text):
                run_command(command)
    CHECKS.get(page, lambda names: None)(vars(module))


@pytest.mark.parametrize("block", SKIPPED, ids=lambda b: f"{b.page}:{b.line}")
def test_a_block_that_is_not_run_says_why(block):
    assert block.language in RUNNABLE
    if block.language == "python":
        compile(block.text, block.page, "exec")
    pytest.skip(f"{block.page}, line {block.line}: {block.why_not}")


def test_every_block_says_what_it_is():
    for page in PAGES:
        found = ALL[str(page.relative_to(ROOT))]
        assert page.read_text().count("```") == 2 * len(found)
        assert {b.language for b in found} <= {*RUNNABLE, *SHOWN}
        for block in found:
            # An illustration in which something is left out cannot be a command.
            assert block.language != "bash" or "..." not in block.text


def test_the_quick_start_is_two_commands():
    first, second = [b.text for b in ALL["README.md"] if b.language == "bash"][:2]
    assert "-m fkjax.run" in first and "-m pytest" in second
    assert first.count("\n") == second.count("\n") == 1


def test_continuous_integration_builds_the_site():
    steps = (ROOT / ".ci" / "run").read_text()
    assert "'.[docs]'" in steps or '".[docs]"' in steps
    assert "sphinx-build -q -W --keep-going -b html docs site" in steps


class _Page(html.parser.HTMLParser):
    """What a page loads, what it links to, and what can be linked to in it."""

    def __init__(self):
        super().__init__()
        self.loads, self.links, self.anchors = [], [], set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id"))
        for name in ("href", "src", "srcset", "data", "poster"):
            if given.get(name):
                is_link = tag == "a" and name == "href"
                (self.links if is_link else self.loads).append(given[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(name, reason=f"{name} is not there: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = (
        f"-m sphinx -q -W --keep-going -b html -d {folder}/.doctrees docs {folder}"
    )
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.integration
def test_the_site_builds_and_takes_nothing_from_outside(site):
    assert (site / "index.html").exists()
    for path in site.rglob("*.html"):
        page = _Page()
        page.feed(path.read_text())
        outside = [url for url in page.loads if urlsplit(url).netloc]
        assert not outside, f"{path} loads {outside}"
        assert 'class="mermaid"' not in path.read_text()  # a script from elsewhere
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text())


@pytest.mark.integration
def test_the_links_of_the_site_lead_somewhere(site):
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = _Page()
        pages[path].feed(path.read_text())
    broken = collections.defaultdict(list)
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = path if not url.path else (path.parent / unquote(url.path))
            target = target.resolve()
            if target.is_dir():
                target /= "index.html"
            is_there = target.exists()
            if is_there and url.fragment and target in pages:
                is_there = unquote(url.fragment) in pages[target].anchors
            if not is_there:
                broken[path.name].append(link)
    assert not broken


@pytest.mark.integration
def test_every_page_and_result_is_in_the_navigation(site):
    page = _Page()
    page.feed((site / "tutorial.html").read_text())
    for path in (ROOT / "docs").rglob("*.md"):
        built = path.relative_to(ROOT / "docs").with_suffix(".html")
        assert str(built) in page.links or path.name == "tutorial.md"


def test_the_reference_has_every_module():
    pages = [p.read_text() for p in (ROOT / "docs" / "reference").glob("*.md")]
    listed = re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(pages), re.M)
    doors = {"fkjax.run", "fkjax.select", "fkjax.label"}  # of commands with their names
    modules = {m.name for m in pkgutil.walk_packages(fkjax.__path__, "fkjax.")}
    public = {name for name in modules - doors if not name.endswith("__main__")}
    assert len(listed) == len(set(listed))
    assert not public - set(listed), "to be added to docs/reference"
    assert set(listed) - public == {"fkjax"}


def test_the_tests_that_pages_name_exist():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for name in re.findall(r"\btests/[\w/]+(?:\.py)?", page.read_text()):
            is_form = "FORMAT" in name or "NAME" in name
            assert is_form or (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_figures_of_the_guides_stand_in_the_results():
    folders = ROOT / "docs" / "results", ROOT / "benchmarks"
    results = "\n".join(p.read_text() for f in folders for p in f.glob("*.md"))
    for name in ("strategies.md", "scaling.md"):
        text = (ROOT / "docs" / name).read_text()
        text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        figures = re.findall(r"[\d,]+(?:\.\d+)? ± \d+\.\d+|\d[\d,]*\.\d+", text)
        assert len(figures) > 3
        absent = [figure for figure in figures if figure not in results]
        assert not absent, f"{name}: {absent}"
