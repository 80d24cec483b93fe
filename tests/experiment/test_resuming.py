"""A run that is killed and resumed gives the bytes of one that never was."""

import importlib.metadata
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest

import fkjax.commands.run
from fkjax.files import checkpoint
from tests.commands.command import HELD_OUT

ARGV = (
    "--seeds 1 --rounds 4 --budget 5 --epochs 1 --pretraining none "
    "--validation-size 100 --strategies random margin"
).split() + HELD_OUT


def outcome(folder):
    """Returns what must not depend on kills: all but times and memory."""
    records = []
    for line in (folder / "rounds.jsonl").read_text().splitlines():
        record = json.loads(line)
        record["seconds"] = sorted(record["seconds"])
        record["peak_memory_mb"] = sorted(record["peak_memory_mb"])
        records.append(json.dumps(record))
    return records, (folder / "queries.csv").read_bytes()


class Killed(BaseException):
    """Raised in place of SIGKILL: nothing is written to disk after it."""


class Killer:
    """Kills at the n-th time that the main thread changes a file below a folder."""

    CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}

    def __init__(self):
        self.folder, self.left = None, 0
        sys.addaudithook(self.hear)

    def arm(self, folder, left):
        self.folder, self.left = str(folder), left

    def hear(self, event, args):
        if self.folder is None or threading.current_thread() != threading.main_thread():
            return
        if event == "open":
            is_change = isinstance(args[1], str) and set(args[1]) & set("wax+")
        else:
            is_change = event in self.CHANGES
        if is_change and self.folder in str(args[0]):
            self.left -= 1
            if self.left < 0:
                raise Killed


@pytest.fixture(scope="module")
def killer():
    return Killer()


@pytest.fixture(scope="module")
def prepared():
    """Compiles once for all runs of the module, and draws no figures."""
    with pytest.MonkeyPatch.context() as patch:
        kept, prepare = {}, fkjax.commands.run.prepare

        def once(config, dataset):
            key = (config.stop_when, config.side_by_side, config.patience)
            made = kept.setdefault(key, prepare(config, dataset))
            return made._replace(config=config)

        patch.setattr(fkjax.commands.run, "prepare", once)
        for name in ("draw_learning_curve", "draw_confusion"):
            patch.setattr(fkjax.commands.run.figures, name, lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A run that was never killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fkjax.commands.run.main([*ARGV, "--output-dir", str(folder)]) == 0
    return folder


def kill_at(killer, folder, step, argv=ARGV):
    """Kills a run at a step; returns whether the run ended before it."""
    killer.arm(folder, step)
    try:
        return fkjax.commands.run.main([*argv, "--output-dir", str(folder)]) == 0
    except Killed:
        return False
    finally:
        killer.folder = None


def kill_and_go_on(killer, whole, tmp_path, steps):
    """Kills a run at each step, in a new folder; returns the number of kills."""
    num_kills = 0
    for step in steps:
        folder = tmp_path / str(step)
        if kill_at(killer, folder, step):
            break
        num_kills += 1
        kill_at(killer, folder, step // 2)  # and again, while it resumes
        for line in lines_of(folder):  # lines are always complete
            json.loads(line)
        assert fkjax.commands.run.main([*ARGV, "--output-dir", str(folder)]) == 0
        assert outcome(folder) == outcome(whole)
        assert {path.name for path in folder.iterdir()} == {
            path.name for path in whole.iterdir()
        }
        shutil.rmtree(folder)
    return num_kills


def lines_of(folder):
    path = folder / "rounds.jsonl"
    text = path.read_text() if path.exists() else ""
    assert not text or text.endswith("\n")
    return text.splitlines()


def test_killed_at_some_steps(killer, whole, tmp_path, capsys):
    assert kill_and_go_on(killer, whole, tmp_path, range(5, 200, 37)) >= 4


@pytest.mark.slow
def test_killed_at_every_step(killer, whole, tmp_path, capsys):
    num_kills = kill_and_go_on(killer, whole, tmp_path, itertools.count())
    with capsys.disabled():
        print(f"\n{num_kills} steps at which a run was killed, and went on the same")


def test_a_finished_run_is_left_as_it_is(whole, capsys):
    before = {p.name: p.read_bytes() for p in whole.iterdir() if p.suffix != ".png"}
    assert fkjax.commands.run.main([*ARGV, "--output-dir", str(whole)]) == 0
    assert before == {
        p.name: p.read_bytes() for p in whole.iterdir() if p.suffix != ".png"
    }
    assert "random" in capsys.readouterr().out
    assert not (whole / "checkpoints").exists()


@pytest.fixture(scope="module")
def killed_halfway(killer, whole, tmp_path_factory):
    """A run that was killed once the third round of its second strategy was done."""
    parent = tmp_path_factory.mktemp("halfway")
    for step in range(100, 400, 3):
        folder = parent / str(step)
        if not kill_at(killer, folder, step) and len(lines_of(folder)) == 7:
            return folder
    raise AssertionError("no step ends the third round")


@pytest.fixture
def halfway(killed_halfway, tmp_path, capsys):
    folder = tmp_path / "halfway"
    shutil.copytree(killed_halfway, folder)
    return folder


def checkpoints(folder):
    return sorted(folder.glob("checkpoints/seed-0/strategy-margin/round-*.sha256.json"))


def a_file(path):
    """The largest file of a checkpoint, given its checksums."""
    content = path.with_name(path.name.removesuffix(".sha256.json"))
    files = (file for file in content.rglob("*") if file.is_file())
    return max(files, key=lambda file: file.stat().st_size)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "one bit": lambda sums: flip_a_bit(a_file(sums)),
    "truncated": lambda sums: os.truncate(a_file(sums), 7),
    "a file gone": lambda sums: a_file(sums).unlink(),
    "a file more": lambda sums: a_file(sums).with_name("x").write_text("x"),
    "no checksums": lambda sums: sums.unlink(),
    "half the checksums": lambda sums: os.truncate(sums, 100),
    "other checksums": lambda sums: sums.write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_a_round_and_is_told(damage, halfway, whole, capsys):
    DAMAGES[damage](checkpoints(halfway)[-1])
    assert fkjax.commands.run.main([*ARGV, "--output-dir", str(halfway)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "margin, seed 0, round 3 cannot be used" in line
    assert line.endswith("resuming from round 2")
    assert outcome(halfway) == outcome(whole)


def test_without_a_whole_checkpoint_the_strategy_begins_anew(halfway, whole, capsys):
    for sums in checkpoints(halfway):
        flip_a_bit(a_file(sums))
    flip_a_bit(a_file(halfway / "checkpoints" / "seed-0" / "start.sha256.json"))
    assert fkjax.commands.run.main([*ARGV, "--output-dir", str(halfway)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "the initial state of seed 0 is computed again" in lines[0]
    assert lines[-1].endswith("resuming from round 0") and len(lines) == 4
    assert outcome(halfway) == outcome(whole)


def refused(capsys, folder, *argv):
    before = outcome(folder)
    assert fkjax.commands.run.main([*ARGV, *argv, "--output-dir", str(folder)]) == 2
    captured = capsys.readouterr()
    assert outcome(folder) == before and captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_another_configuration_is_refused_with_the_difference(halfway, capsys):
    line = refused(capsys, halfway, "--budget", "6", "--learning-rate", "0.1")
    assert "--budget was 5 and is now 6" in line
    assert "--learning-rate was 0.05 and is now 0.1" in line
    assert "--overwrite" in line


def test_another_version_or_other_data_are_refused(halfway, capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0")
    assert "the version of jax was " in refused(capsys, halfway)
    monkeypatch.undo()
    path = halfway / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"data": "0" * 64}))
    assert "the images or labels of the dataset were others" in refused(capsys, halfway)


def test_overwrite_begins_anew_and_deletes_nothing_else(halfway, prepared, capsys):
    (halfway / "notes.txt").write_text("mine")
    argv = [*ARGV, "--rounds", "1", "--overwrite", "--output-dir", str(halfway)]
    assert fkjax.commands.run.main(argv) == 0
    assert len(lines_of(halfway)) == 2
    assert (halfway / "notes.txt").read_text() == "mine"


def test_overwrite_takes_no_folder_that_holds_no_run(tmp_path, prepared, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert (
        fkjax.commands.run.main([*ARGV, "--overwrite", "--output-dir", str(tmp_path)])
        == 2
    )
    assert "contains other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_write_to_one_folder(halfway, capsys):
    with fkjax.commands.run.RunFolder.open(halfway).locked():
        assert "another process uses" in refused(capsys, halfway)


@pytest.mark.slow
def test_seeds_side_by_side_go_on_as_well(killer, prepared, tmp_path, capsys):
    argv = [*ARGV, "--seeds", "2", "--side-by-side", "yes", "--rounds", "2"]
    argv += ["--strategies", "random"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert fkjax.commands.run.main([*argv, "--output-dir", str(whole)]) == 0
    for step in (30, 47):  # in the first round, and between two seeds of the second
        assert not kill_at(killer, killed, step, argv)
    assert fkjax.commands.run.main([*argv, "--output-dir", str(killed)]) == 0
    assert outcome(killed) == outcome(whole)


def test_a_stop_rule_holds_when_a_run_goes_on(killer, prepared, tmp_path, capsys):
    argv = [*ARGV, "--stop-when", "plateau", "--patience", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert fkjax.commands.run.main([*argv, "--output-dir", str(whole)]) == 0
    records = [json.loads(line) for line in lines_of(whole)]
    assert [r["stop"] for r in records if "stop" in r] == ["plateau"] * 2
    assert len(records) < 8
    assert not kill_at(killer, killed, 45, argv)
    assert fkjax.commands.run.main([*argv, "--output-dir", str(killed)]) == 0
    assert outcome(killed) == outcome(whole)


def test_a_full_disk_loses_nothing(whole, tmp_path, capfd):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        folder = place / "run"
        ballast = place / "ballast"
        num_refused = 0
        for size in (1980, 1700, 1500, 1300, 0):  # kilobytes filled by others
            ballast.write_bytes(b"x" * 1000 * size)
            status = fkjax.commands.run.main([*ARGV, "--output-dir", str(folder)])
            if status == 0:
                break
            err = capfd.readouterr().err
            assert status == 2 and "free some space" in err
            assert len(err.splitlines()) == 1
            num_refused += 1
        assert status == 0 and num_refused >= 2
        assert outcome(folder) == outcome(whole)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_checkpoint_that_orbax_cannot_write(tmp_path, monkeypatch):
    def fail():
        raise ValueError("RESOURCE_EXHAUSTED: Error writing")

    monkeypatch.setattr(checkpoint, "_checkpointer", fail)
    with pytest.raises(fkjax.commands.run.UserError, match="free some space"):
        checkpoint.save(tmp_path / "x", {"a": 1.0})
    assert checkpoint.restore(tmp_path / "x") is None


def kill_for_real(folder, whole, rng, num_kills):
    """Sends SIGKILL at random times of runs, some of which end before."""
    env = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    argv = [sys.executable, "-m", "fkjax.run", *ARGV, "--output-dir", str(folder)]
    for _ in range(num_kills):
        process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL)
        seen = len(lines_of(folder)) + rng.randrange(3)
        until = time.monotonic() + 240
        while process.poll() is None and len(lines_of(folder)) <= seen:
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))  # a round takes about as long
        process.kill()
        for line in lines_of(folder):
            json.loads(line)
        if process.wait() == 0:
            assert outcome(folder) == outcome(whole)
            shutil.rmtree(folder)
    assert fkjax.commands.run.main([*ARGV, "--output-dir", str(folder)]) == 0
    assert outcome(folder) == outcome(whole)


@pytest.mark.integration
def test_killed_by_the_system(whole, tmp_path):
    kill_for_real(tmp_path / "run", whole, random.Random(0), 2)


@pytest.mark.slow
def test_killed_by_the_system_many_times(whole, tmp_path, capsys):
    kill_for_real(tmp_path / "run", whole, random.Random(1), 100)
    with capsys.disabled():
        print("\n100 processes killed at random instants, and all went on the same")
