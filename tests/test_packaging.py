"""The wheel and the source archive hold what they should, and the wheel installs."""

import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import fkjax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "fkjax").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with both archives, built as `python -m build` builds them."""
    pytest.importorskip(
        "hatchling", reason="the builder is missing: pip install '.[test]'"
    )
    folder = tmp_path_factory.mktemp("dist")
    targets = ("-t", "wheel", "-t", "sdist")
    command = [sys.executable, "-m", "hatchling", "build", *targets, "-d", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel; it sees the packages of this one, after it."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    base = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", scheme="venv", vars=base))
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    bin_folder = Path(sysconfig.get_path("scripts", scheme="venv", vars=base))
    python = bin_folder / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    done = subprocess.run(
        [*install, *options, str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return bin_folder


def run(command, cwd):
    """Runs a command that cannot see this checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.integration
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == PACKAGE
    for needed in ("fkjax/py.typed", "fkjax/report/templates/page.css"):
        assert needed in names
    assert {name.partition("/")[2] for name in metadata} == {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }


@pytest.mark.integration
def test_the_wheel_describes_the_project(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "fkjax" and metadata["Version"] == fkjax.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith("https://") for url in urls.values())


@pytest.mark.integration
def test_the_source_archive_holds_what_builds_and_tests_the_project(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= PACKAGE
    files = "pyproject.toml README.md LICENSE CHANGELOG.md CITATION.cff CONTRIBUTING.md"
    assert names >= set(files.split())
    assert names >= {"tests/test_packaging.py", "examples/own_strategy.py"}
    assert names >= {"benchmarks/README.md", "docs/index.md"}
    hidden = {name.split("/")[0] for name in names if name.startswith(".")}
    assert hidden <= {".ci", ".github", ".gitignore", ".pre-commit-config.yaml"}
    assert not [name for name in names if "__pycache__" in name or name == "runs"]


@pytest.mark.integration
def test_the_installed_wheel_runs_without_the_sources(installed, tmp_path):
    python = installed / "python"
    code = "import fkjax.report.html; print(fkjax.__file__)"
    (imported,) = run([python, "-c", code], tmp_path).splitlines()
    assert Path(imported).is_relative_to(installed.parent)
    assert "usage: fkjax" in run([installed / "fkjax", "--help"], tmp_path)
    printed = run([installed / "fkjax", "--version"], tmp_path)
    assert fkjax.__version__ in printed


def test_every_file_gives_the_same_version():
    version = fkjax.__version__
    assert PROJECT["version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (\S+)", changes, re.M)
    is_first_release = headings == ["Unreleased"]
    assert version in headings or is_first_release and f" {version}.\n" in changes
