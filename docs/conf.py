"""The documentation's settings: `sphinx-build -W --keep-going docs site` builds it.

The build uses no network, and the pages load nothing from other servers.
"""

import inspect
import itertools
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer

DOCS = Path(__file__).parent

project = "fkjax"
author = "the fkjax authors"
version = release = version_of("fkjax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["results/runs/*/**"]

myst_enable_extensions = ["alert"]
myst_heading_anchors = 4

smartquotes_action = "qe"  # not dashes: flags have two
highlight_language = "none"
default_role = "literal"  # docstrings mark code by single backticks
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "ignore-module-all": True,  # names are documented where they are defined
}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # signatures have them
toc_object_entries_show_parents = "hide"

SECTIONS = {"Args:", "Attributes:", "Returns:", "Raises:", "Yields:"}
"""The sections of docstrings, whose indented lines are no code."""

TYRO = re.compile("_ArgConfig|MISSING_NONPROP")
"""The settings of flags within annotations, which no reader needs."""

html_theme = "furo"
html_title = "fkjax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
copybutton_prompt_text = ">>> |\\.\\.\\. "
copybutton_prompt_is_regexp = True


def benchmarks_page() -> str:
    """Returns the page of benchmarks/README.md, with links that hold from here."""
    text = (DOCS.parent / "benchmarks" / "README.md").read_text()
    return text.replace("](../docs/results)", "](README.md)")


def runs_page() -> str:
    """Returns the list of the kept runs."""
    folder = DOCS / "results" / "runs"
    kept = sorted(path.relative_to(folder) for path in folder.rglob("rounds.jsonl"))
    lines = (
        f"- {path.parent}: [rounds.jsonl]({path}), "
        f"[config.json]({path.with_name('config.json')})"
        for path in kept
    )
    return "\n".join(lines)


def with_drawings(text: str) -> str:
    """Returns a page with the SVG files of drawings.py in place of Mermaid blocks.

    What shows Mermaid is a script, and the site has none from other servers.
    """
    numbers = itertools.count(1)
    return re.sub(
        r"```mermaid\n.*?```",
        lambda block: f"![the steps](static/architecture-{next(numbers)}.svg)",
        text,
        flags=re.S,
    )


def on_source_read(app: Sphinx, page: str, source: list[str]) -> None:
    """Completes the pages that only point to something in the repository."""
    del app
    if page == "results/benchmarks":
        source[0] = benchmarks_page()
    elif page == "results/runs/README":
        source[0] += "\n" + runs_page() + "\n"
    elif page == "architecture":
        source[0] = with_drawings(source[0])
    source[0] = source[0].replace("](../../benchmarks/README.md", "](benchmarks.md")


def imported_names(module: ModuleType) -> list[str]:
    """Returns a list of the names that a module offers from other modules."""
    lines = []
    for name in sorted(getattr(module, "__all__", ()), key=str.lower):
        value = getattr(module, name)
        home, summary = home_of(name, value)
        if home and home != module.__name__:
            words = " ".join(summary.partition("\n\n")[0].split())
            sentence = escaped(re.split(r"(?<=\.) ", words)[0])
            lines.append(f"- :py:obj:`{name} <{home}.{name}>`: {sentence}")
    return ["", "Names from its modules:", "", *lines] if lines else []


def home_of(name: str, value: Any) -> tuple[str, str]:
    """Returns the module that defines and documents a value, and its docstring."""
    if inspect.isfunction(value) or inspect.isclass(value):
        home = value.__module__
        of_data = ModuleAnalyzer.for_module(home).find_attr_docs().get(("", name))
        return home, of_data[0] if of_data else (inspect.getdoc(value) or "")
    for home, module in sorted(sys.modules.items()):
        if home.startswith("fkjax.") and vars(module).get(name) is value:
            of_data = ModuleAnalyzer.for_module(home).find_attr_docs().get(("", name))
            if of_data:
                return home, of_data[0]
    return "", ""


def escaped(line: str) -> str:
    """Returns a line whose bars, stars and "N." outside code are only text."""
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    return re.sub(r"((?:^|: )\s*[A-Za-z])\.(?= |$)", r"\1\\.", "".join(parts))


def on_docstring(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Makes the Markdown of a docstring reStructuredText.

    An indented block is code, a list gets an empty line before it, and outside code
    bars, stars and a lone letter with a full stop ("N.") are escaped.
    """
    del app, name, options
    fixed: list[str] = []
    if what not in ("module", "class", "exception", "function", "method"):
        # A comment: Napoleon takes what is before a first colon for the type.
        fixed += ["..", ""]
    in_section = in_code = False
    for line in lines:
        follows_blank = not fixed or not fixed[-1].strip()
        if line and not line.startswith(" "):
            in_section = line in SECTIONS
            in_code = False
        elif line.startswith("    ") and follows_blank and not in_section:
            if not in_code:
                fixed += ["::", ""]
            in_code = True
        if line.startswith("- ") and fixed and re.match(r"[^-\s]", fixed[-1]):
            fixed.append("")
        if not in_code and not line.lstrip().startswith((">>>", "...")):
            line = escaped(line)
        fixed.append(line)
    lines[:] = fixed + (imported_names(value) if what == "module" else [])


def skip_fields(
    app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any
) -> bool | None:
    """Skips the fields of a named tuple, which its docstring describes."""
    del app, what, name, skip, options
    return True if type(value).__name__ == "_tuplegetter" else None


def on_signature(
    app: Sphinx,
    what: str,
    name: str,
    value: Any,
    options: Any,
    arguments: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Shows functions that are defaults by their names, and hides tyro's settings."""
    del app, what, name, value, options
    if TYRO.search(arguments or ""):
        return "(...)", returns
    shown = re.sub(r"<function ([\w.]+)[^>]*>", r"\1", arguments or "")
    return shown or arguments, returns


def hide_long_values(
    app: Sphinx, domain: str, kind: str, content: addnodes.desc_content
) -> None:
    """Hides long values and annotations, which docstrings describe."""
    del app
    if (domain, kind) in (("py", "data"), ("py", "attribute")):
        for part in list(content.parent.findall(addnodes.desc_annotation)):
            text = part.astext()
            if TYRO.search(text) or (text.startswith(" = ") and len(text) > 40):
                part.parent.remove(part)


def setup(app: Sphinx) -> None:
    """Connects the functions above to the build."""
    app.connect("source-read", on_source_read)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    before_napoleon = 400
    app.connect("autodoc-process-docstring", on_docstring, before_napoleon)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("object-description-transform", hide_long_values)
    app.connect("autodoc-skip-member", skip_fields)
