"""Draws the Mermaid blocks of architecture.md as SVG files, for the site.

The site loads no script from other servers, so it shows these files in place of the
blocks. After a change of a block: `pip install merm && python docs/drawings.py`.
"""

import re
import subprocess
from pathlib import Path

DOCS = Path(__file__).parent


def main() -> None:
    """Writes static/architecture-1.svg and so on."""
    text = (DOCS / "architecture.md").read_text()
    for i, block in enumerate(re.findall(r"```mermaid\n(.*?)```", text, re.S), start=1):
        drawing = subprocess.run(
            ["merm"], input=block, capture_output=True, text=True, check=True
        )
        (DOCS / "static" / f"architecture-{i}.svg").write_text(drawing.stdout)


if __name__ == "__main__":
    main()
