"""The map in docs/architecture.md is that of the sources."""

import importlib
import re
import xml.etree.ElementTree
from pathlib import Path

import fkjax
from tests.test_imports import ORDER

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "architecture.md").read_text()
BLOCKS = re.findall(r"```mermaid\n(.*?)```", TEXT, re.S)


def test_the_table_lists_the_packages_in_their_order():
    section = TEXT.split("## Packages")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == ORDER


def test_what_it_names_exists():
    names = set(re.findall(r"`(fkjax\.[\w.]+)`", TEXT + contributing()))
    assert len(names) > 10
    for name in names:
        assert is_there(name), name
    for path in set(re.findall(r"`((?:fkjax|tests|docs)/[\w./]+)`", contributing())):
        if not re.search("FORMAT|NAME", path):
            assert (DOCS.parent / path).exists(), path


def contributing():
    return (DOCS.parent / "CONTRIBUTING.md").read_text()


def is_there(name):
    """Whether a dotted name is a module, or something in one."""
    found, path = fkjax, "fkjax"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        try:
            found = getattr(found, part, None) or importlib.import_module(path)
        except ImportError:
            return False
    return True


def test_the_drawings_of_the_site_are_those_of_the_page():
    assert len(BLOCKS) == 3
    for i, block in enumerate(BLOCKS, start=1):
        path = DOCS / "static" / f"architecture-{i}.svg"
        drawing = xml.etree.ElementTree.parse(path)
        drawn = [
            " ".join(line.strip() for line in node.itertext() if line.strip())
            for node in drawing.iter("{http://www.w3.org/2000/svg}text")
        ]
        assert sorted(drawn) == sorted(re.findall(r"\[(.*?)\]", block)), (
            f"{path.name} is not that of the page: run docs/drawings.py"
        )
