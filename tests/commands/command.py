"""Shared by tests of `fkjax run`: how it is started and read."""

import csv
import json
import os
import subprocess
import sys

HELD_OUT = "--validation-role hold-out --prior-correction none".split()
"""The protocol of the paper; that in which the validation set is trained on has tests
of its own (tests/experiment/test_validation_role.py)."""

SMALL = (
    "--seeds 1 --rounds 2 --budget 5 --epochs 2 --pretraining-epochs 1 "
    "--validation-size 100"
).split() + HELD_OUT
# A test may run with Ctrl-C ignored, as in a shell's background, and inherits that.
COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from fkjax.commands.run import main; sys.exit(main())"
)


def start_command(*argv, code=COMMAND, **options):
    env = os.environ | {"FORCE_COLOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **options,
    )


def finish(process, timeout=120):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def read_jsonl(folder):
    text = (folder / "rounds.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def read_queries(folder):
    with (folder / "queries.csv").open(newline="") as file:
        return list(csv.DictReader(file))
