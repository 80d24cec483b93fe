"""The command `fkjax`, and `python -m fkjax`."""

import importlib
import sys
from collections.abc import Sequence

import fkjax

COMMANDS = {
    "run": "compare strategies on a biased pool, with known labels",
    "select": "choose the examples of your pool to label next",
    "label": "label your images in rounds, with a model that learns from the labels",
    "report": "write a page, or tables, on finished or unfinished runs",
}

USAGE = "\n".join(
    [
        "usage: fkjax COMMAND [OPTIONS]",
        "",
        "Active learning for biased pools, by Fisher-kernel features.",
        "",
        "commands:",
        *(f"  {name:8}{what}" for name, what in COMMANDS.items()),
        "",
        "fkjax COMMAND --help shows the options of a command; fkjax --version, the "
        "version.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the commands and returns its exit status.

    Args:
        argv: command and its arguments; those of the process if None.

    Returns:
        The exit status of the command; 2 if there is no such command.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        return importlib.import_module(f"fkjax.commands.{name}").main(rest)
    if name in ("-h", "--help", "--version"):
        print(f"fkjax {fkjax.__version__}" if name == "--version" else USAGE)
        return 0
    print(
        f"fkjax: the commands are {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
