"""The exit status of a command, and what it prints to stderr."""

import sys
from collections.abc import Callable

from fkjax.base import UserError, printable


def exit_status(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit status.

    Args:
        command: function to call; its result is ignored.

    Returns:
        0 on success; 2 after a `UserError`, whose message is printed; 130 after Ctrl-C.
    """
    try:
        command()
    except UserError as error:
        print(f"fkjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fkjax: interrupted", file=sys.stderr)
        return 130
    return 0


def notify(sentence: str) -> None:
    """Prints a sentence to stderr, with control characters escaped."""
    print(f"fkjax: {printable(sentence)}", file=sys.stderr)
