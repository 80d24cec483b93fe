"""Several processes give the files of one, and none goes on without another."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fkjax.base import UserError
from fkjax.commands.run import main
from fkjax.parallel import processes as cluster

ROOT = Path(__file__).parents[2]
ARGV = (
    "--seeds 1 --rounds 3 --budget 8 --epochs 1 --pretraining-epochs 1 "
    "--validation-size 210 --strategies fisher_nearest --taps conv2 fc1"
).split()


def start(folder, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "fkjax.run", "--output-dir", str(folder), *ARGV, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def start_two(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--distributed", "--coordinator", f"127.0.0.1:{port}")
    flags += ("--num-processes", "2", "--process-id")
    return [start(folder, *flags, str(i)) for i in range(2)]


def test_two_processes_one_killed_and_resumed_give_the_queries_of_one(tmp_path):
    rounds = tmp_path / "two" / "rounds.jsonl"
    processes = start_two(tmp_path / "two")
    while not rounds.exists():
        assert all(process.poll() is None for process in processes), [
            process.communicate() for process in processes if process.poll() is not None
        ]
        time.sleep(0.05)
    processes[1].kill()
    _, errors = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert processes[0].returncode == cluster.PEER_LOST
    assert errors.splitlines()[-1].startswith("fkjax: another process of this run")
    assert "Traceback" not in errors

    processes = start_two(tmp_path / "two")
    (said, _), (said_by_other, _) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "fisher_nearest" in said
    assert said_by_other == ""

    alone = start(tmp_path / "one")
    assert alone.wait() == 0, alone.communicate()
    one, two = (tmp_path / name / "queries.csv" for name in ("one", "two"))
    assert len(one.read_bytes().splitlines()) == 25
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--process-id 0", "give them with --distributed"),
        ("--distributed --coordinator here", "must be HOST:PORT"),
        ("--distributed --num-processes 2 --process-id 2", "got 2 of 2"),
        ("--distributed", "The processes did not meet"),
    ],
)
def test_flags_that_cannot_be_are_told(argv, message, capsys, monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    assert main(argv.split()) == 2
    assert message in capsys.readouterr().err


def test_an_environment_that_is_no_number_is_told(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(UserError, match="JAX_PROCESS_ID must be a whole number"):
        cluster.connect("127.0.0.1:1", 2, None)


def test_one_process_agrees_with_itself():
    assert cluster.agreed(lambda: [1, None]) == [1, None]
    assert cluster.is_first()
    with pytest.raises(KeyError), cluster.stopping_together():
        raise KeyError
