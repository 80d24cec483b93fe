"""Runs docs/tutorial.md in a new environment, and times each block.

`python -m benchmarks.tutorial`. Copies the committed sources to a temporary folder,
creates a virtual environment there, and runs the blocks of the page in order: commands
as printed, Python in one namespace. Prints a table in Markdown.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Runs the blocks after the installation, in the virtual environment.
FOLLOW = """
import json, subprocess, sys, time
names = {}
for number, (language, text) in enumerate(json.load(open(sys.argv[1])), start=1):
    since = time.perf_counter()
    if language == "bash":
        subprocess.run(["bash", "-euc", text], check=True, stdout=sys.stderr)
    else:
        exec(compile(text, f"block {number}", "exec"), names)
    print(number, time.perf_counter() - since, file=open("seconds", "a"))
"""


def main() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", page, re.M | re.S)
    with tempfile.TemporaryDirectory() as scratch:
        sources = Path(scratch) / "sources"
        sources.mkdir()
        archive = ["git", "-C", str(ROOT), "archive", "HEAD"]
        packed = subprocess.run(archive, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(sources)], input=packed, check=True)
        seconds = follow(blocks, sources, Path(scratch) / "venv")
    print("| block | seconds |\n|---|---:|")
    for (language, text), taken in zip(blocks, seconds, strict=True):
        lines = text.strip().splitlines()
        shown = lines[0] if language == "bash" else f"Python, {len(lines)} lines"
        print(f"| `{shown}` | {taken:.0f} |")
    print(f"| all | {sum(seconds):.0f} |")


def follow(blocks: list[tuple[str, str]], sources: Path, venv: Path) -> list[float]:
    """Returns the seconds of each block."""
    since = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    unwanted = ("VIRTUAL_ENV", "PYTHONPATH", "JAX_COMPILATION_CACHE_DIR")
    env = {k: v for k, v in os.environ.items() if k not in unwanted}
    env["PATH"] = f"{venv}/bin:{env['PATH']}"
    options = {"cwd": sources, "env": env, "check": True, "stdout": sys.stderr}
    subprocess.run(["bash", "-euc", blocks[0][1]], **options)
    installed = time.perf_counter() - since
    (sources / "blocks.json").write_text(json.dumps(blocks[1:]))
    subprocess.run([f"{venv}/bin/python", "-c", FOLLOW, "blocks.json"], **options)
    lines = (sources / "seconds").read_text().splitlines()
    return [installed, *(float(line.split()[1]) for line in lines)]


if __name__ == "__main__":
    main()
