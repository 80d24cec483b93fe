import numpy as np
import pytest

from fkjax.runs.folder import RunFolder
from fkjax.runs.journal import Journal
from tests.records import record

SEEDS = range(2)


def state(number):
    return {"a": {"b": np.arange(3) + number}}


def rows(number, strategy="random"):
    for seed in SEEDS:
        position = {"strategy": strategy, "seed": seed, "round": number}
        ids = [10 * number + seed]
        columns = {"ids": ids, "labels": [0], "pseudo_labels": [-1], "target_ids": [-1]}
        yield record(**position), {**columns, **position}


def journal(folder, told=None):
    return Journal(folder, tell=[].append if told is None else told.append)


def files(folder):
    paths = folder.path.rglob("*")
    return {p.relative_to(folder.path): p.read_bytes() for p in paths if p.is_file()}


def committed(folder, num_rounds, strategy="random"):
    track = journal(folder).track(strategy, SEEDS)
    for number in range(1, num_rounds + 1):
        track.commit(number, state(number), list(rows(number, strategy)))
    return track


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def test_a_track_has_the_rounds_of_its_strategy_by_seed(folder):
    committed(folder, 2)
    committed(folder, 1, "margin")
    again = journal(folder)
    for strategy, numbers in (("random", [1, 2]), ("margin", [1]), ("entropy", [])):
        found = again.track(strategy, SEEDS).rounds()
        assert {s: [r["round"] for r in rs] for s, rs in found.items()} == {
            seed: numbers for seed in SEEDS
        }


def test_checkpoints_have_one_place_for_each_strategy_and_group_of_seeds(folder):
    committed(folder, 3, "a/b")
    journal(folder).start(range(4, 5), lambda: state(0))
    inside = folder.path / "checkpoints"
    names = {str(p.relative_to(inside)) for p in inside.glob("*/strategy-*/round-?")}
    assert names == {f"seeds-0-to-1/strategy-a%2Fb/round-{n}" for n in (2, 3)}
    assert (inside / "seed-4" / "start").is_dir()


@pytest.mark.parametrize("num_rounds", [0, 2])
def test_a_track_resumes_after_its_last_round(folder, num_rounds):
    committed(folder, num_rounds)
    number, kept = journal(folder).track("random", SEEDS).resume(num_rounds)
    assert number == num_rounds
    if num_rounds:
        np.testing.assert_array_equal(kept["a"]["b"], state(num_rounds)["a"]["b"])
    else:
        assert kept is None


def test_a_round_whose_checkpoint_is_gone_is_dropped_and_done_again(folder):
    committed(folder, 1)
    committed(folder, 1, "margin")
    before, told = files(folder), []
    track = journal(folder).track("random", SEEDS)
    track.commit(2, state(2), list(rows(2)))
    (file,) = folder.path.glob("checkpoints/*/strategy-random/round-2.sha256.json")
    file.unlink()
    again = journal(folder, told)
    number, _ = again.track("random", SEEDS).resume(2)
    assert number == 1 and "random, seeds 0 to 1, round 2" in told[0]
    assert {r["round"] for r in again.records} == {1}
    for name in ("rounds.jsonl", "queries.csv"):
        assert (folder.path / name).read_bytes() == before[
            (folder.path / name).relative_to(folder.path)
        ]


def test_concluding_removes_the_checkpoints_and_keeps_the_rounds(folder):
    track = committed(folder, 2)
    track.journal.start(SEEDS, lambda: state(0))
    other = committed(folder, 1, "margin")
    track.conclude()
    inside = folder.path / "checkpoints" / "seeds-0-to-1"
    assert {p.name for p in inside.iterdir() if p.is_dir()} == {
        "start",
        "strategy-margin",
    }
    other.conclude()
    other.journal.conclude(SEEDS)
    assert {path.name for path in folder.path.iterdir()} == {
        "rounds.jsonl",
        "queries.csv",
    }


def test_what_seeds_start_from_is_made_once(folder):
    journal(folder).start(SEEDS, lambda: state(7))
    kept = journal(folder).start(SEEDS, lambda: pytest.fail("made again"))
    np.testing.assert_array_equal(kept["a"]["b"], state(7)["a"]["b"])
    assert Journal(None, tell=print).start(SEEDS, lambda: 3) == 3


def test_without_a_folder_rounds_are_kept_in_memory():
    track = journal(None).track("random", SEEDS)
    track.commit(1, state(1), list(rows(1)))
    assert [len(rounds) for rounds in track.rounds().values()] == [1, 1]
    assert track.resume(1) == (0, None)
    track.conclude()
