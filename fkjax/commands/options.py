"""Flags of `fkjax run` and `fkjax label`, which are fields of `Config`."""

import argparse
import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tyro

from fkjax.experiment.config import Config


def given(argv: Sequence[str] | None, *names: str) -> dict[str, str | None]:
    """Returns the values of some flags; the defaults of the others depend on them.

    Args:
        argv: the arguments; those of the process if None.
        names: fields of `Config`.

    Returns:
        The value of each as a string, or None if it is not given.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        flags = {f"--{name}", f"--{name.replace('_', '-')}"}
        parser.add_argument(*sorted(flags), dest=name)
    known, _ = parser.parse_known_args(argv)
    return vars(known)


def parse_config(
    argv: Sequence[str] | None,
    *,
    prog: str,
    default: Config,
    hidden: Collection[str],
    described: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Config:
    """Parses flags to a `Config`; exits with status 2 if they are invalid.

    Args:
        argv: the arguments; those of the process if None.
        prog: name of the command in its help.
        default: values of the flags that are not given.
        hidden: fields that are no flags of this command.
        described: `tyro.conf.arg` by field, in place of that of `Config`.
        description: text of the help; that of `Config` if None.
    """
    hints = typing.get_type_hints(Config, include_extras=True)
    changed: dict[str, Any] = {
        name: tyro.conf.SuppressFixed[tyro.conf.Fixed[hints[name]]] for name in hidden
    }
    for name, arg in (described or {}).items():
        changed[name] = typing.Annotated[hints[name], arg]
    fields = [(name, hint, getattr(default, name)) for name, hint in changed.items()]
    options = dataclasses.make_dataclass(
        "Options", fields, bases=(Config,), frozen=True
    )
    parsed = tyro.cli(
        options,
        prog=prog,
        args=argv,
        default=options(**vars(default)),
        description=description or Config.__doc__,
    )
    return Config(**vars(parsed))
