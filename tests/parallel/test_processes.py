"""Several processes write the files of one, and all stop if one of them stops."""

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


def coordinator():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_two(folder):
    flags = ("--distributed", "--coordinator", coordinator())
    flags += ("--num-processes", "2", "--process-id")
    return [start(folder, *flags, str(i)) for i in range(2)]


@pytest.mark.integration
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


TOGETHER = """
import sys
import jax, numpy as np
from fkjax.parallel import processes
from fkjax.parallel.devices import device_mesh, on_all_devices, shard
from fkjax.parallel.examples import take
own = int(sys.argv[2])
processes.connect(sys.argv[1], 2, own)
mesh = device_mesh()
examples = shard(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), mesh)
taken = on_all_devices(take, mesh)(examples, np.array([5, 0, 3]))
print(mesh.size, processes.is_first(), np.asarray(taken).ravel().tolist(),
      processes.agreed(lambda: [own]))
with processes.stopping_together():
    if own == 1:
        raise processes.UserError("This one stops.")
    take = on_all_devices(lambda x: jax.lax.psum(x, mesh.axis_names[0]), mesh)
    jax.block_until_ready(take(np.ones(1)))
"""


def test_two_processes_meet_share_out_and_stop_together():
    at = coordinator()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, at, str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for i in range(2)
    ]
    (out, err), (other_out, other_err) = (p.communicate(timeout=240) for p in both)
    assert out == "2 True [5, 0, 3] [0]\n", err
    assert other_out == "2 False [5, 0, 3] [0]\n", other_err
    assert [p.returncode for p in both] == [cluster.PEER_LOST, 2]
    assert err.splitlines()[-1].startswith("fkjax: another process of this run")
    assert other_err.splitlines()[-1].startswith("fkjax: This one stops")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--process-id 0", "add --distributed, or leave them out"),
        ("--distributed --coordinator here", "must be HOST:PORT"),
        ("--distributed --num-processes 2 --process-id 2", "got 2 of 2"),
        ("--distributed", "the processes could not be connected"),
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
