"""Continuous integration, the hooks and the scripts agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PARTS = {"quickstart", "integration", "checks"}


def test_the_jobs_are_the_parts_of_the_script():
    jobs = re.findall(r"run: bash \.ci/run (\w+)$", WORKFLOW.read_text(), re.M)
    assert len(jobs) == len(PARTS) and set(jobs) == PARTS
    script = (ROOT / ".ci" / "run").read_text()
    for part in PARTS:
        assert f"\n{part}() {{\n" in script
        assert f"\n  {part}\n" in script  # in all of them


def test_every_supported_python_has_a_job():
    (matrix,) = re.findall(r"python: \[(.*)\]", WORKFLOW.read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    classifiers = "\n".join(project["classifiers"])
    declared = re.findall(r"Python :: (3\.\d+)$", classifiers, re.M)
    assert re.findall(r"3\.\d+", matrix) == declared
    assert project["requires-python"] == f">={declared[0]}"


def test_an_unknown_part_is_refused():
    command = ["bash", str(ROOT / ".ci" / "run"), "everything"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "got 'everything'" in done.stderr


def test_the_hooks_download_nothing():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"- repo: (\S+)", text)) == {"local"}
    languages = set(re.findall(r"language: (\S+)", text))
    assert languages <= {"system", "pygrep"}
