"""What the site has beside docs/: the benchmarks' page, and a list of the kept runs."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_DOCS = Path(__file__).parent
_MOVED = {
    "results/README.md": ("../../benchmarks/README.md", "benchmarks.md"),
    "results/benchmarks.md": ("../docs/results", "README.md"),
}
"""By page: a link that is right in the repository, and what it is on the site."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds results that the navigation does not name, by their own titles."""
    assert config.nav is not None
    (results,) = (part["Results"] for part in config.nav if "Results" in part)
    named = {page for entry in results for page in entry.values()}
    for path in sorted((_DOCS / "results").glob("*.md")):
        page = f"results/{path.name}"
        if page not in named:
            results.append(page)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the two pages."""
    benchmarks = (_DOCS.parent / "benchmarks" / "README.md").read_text()
    runs = _DOCS / "results" / "runs"
    kept = (path.relative_to(runs) for path in sorted(runs.rglob("rounds.jsonl")))
    listed = "\n".join(
        f"- {path.parent}: [rounds.jsonl]({path}), "
        f"[config.json]({path.with_name('config.json')})"
        for path in kept
    )
    runs_page = f"# Kept runs\n\nRecords and settings behind the results.\n\n{listed}\n"
    files.append(File.generated(config, "results/benchmarks.md", content=benchmarks))
    files.append(File.generated(config, "results/runs/index.md", content=runs_page))
    return files


def on_page_markdown(markdown: str, *, page: Page, **kwargs: object) -> str:
    """Turns the links to them, and theirs."""
    del kwargs
    old, new = _MOVED.get(page.file.src_uri, ("", ""))
    if old:
        markdown = markdown.replace(f"]({old})", f"]({new})")
    return markdown.replace("](runs)", "](runs/index.md)")
