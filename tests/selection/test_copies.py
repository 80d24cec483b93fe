"""Queries of pools with exact copies."""

import numpy as np
import pytest

import fkjax
from fkjax.commands.select import main
from fkjax.data import columns
from fkjax.selection.copies import conflicts
from tests.selection.test_from_outputs import CLASSES, LABELS, POOL, VALIDATION

TIMES = 5
REPEATED = {name: np.repeat(rows, TIMES, axis=0) for name, rows in POOL.items()}
STRATEGIES = ("fisher_nearest", "feature_match", "margin", "random")


def joined(first, second, at):
    """Returns the arrays of a pool, followed by some rows of other arrays."""
    return {name: np.concatenate([first[name], second[name][at]]) for name in first}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_pool_of_copies_is_queried_as_the_pool_without_them(strategy):
    once = fkjax.select(POOL, VALIDATION, budget=9, strategy=strategy)
    found = fkjax.select(REPEATED, VALIDATION, budget=9, strategy=strategy)
    assert (found.indices == TIMES * once.indices).all()
    for pick, of_once in zip(found.picks, once.picks, strict=True):
        assert pick == of_once._replace(id=pick.id)
    (note,) = found.notes
    assert note.startswith("1,600 of 2,000 unlabeled examples are exact copies")
    assert "--keep-copies" in note and not once.notes


def test_streamed_pools_are_queried_as_those_in_memory(monkeypatch):
    expected = fkjax.select(REPEATED, VALIDATION, budget=9)
    monkeypatch.setattr(columns, "_IN_MEMORY", 0)
    found = fkjax.select(REPEATED, VALIDATION, budget=9)
    assert found.picks == expected.picks and found.notes == expected.notes


def test_copies_can_be_kept():
    options = {"budget": 9, "strategy": "margin", "keep_copies": True}
    found = fkjax.select(REPEATED, VALIDATION, **options)
    assert len(set(found.indices // TIMES)) < 9 and not found.notes


def test_copies_are_last_if_the_budget_exceeds_the_other_examples():
    pool = joined(POOL, POOL, [3, 7, 3])
    found = fkjax.select(pool, VALIDATION, budget=402)
    assert sorted(found.indices[:400]) == list(range(400))
    assert found.indices[400:].tolist() == [400, 401]
    assert [p.rank for p in found.picks] == list(range(1, 403))
    is_copy = ["Exact copy" in pick.reason for pick in found.picks]
    assert is_copy == [False] * 400 + [True] * 2
    assert "exceeds the 400 other examples" in found.notes[-1]


def test_copies_of_labeled_and_of_validation_examples_are_not_queried():
    pool = joined(joined(POOL, POOL, [0, 1, 5]), VALIDATION, [2, 2, 4])
    labeled = [1, 400, 10]  # the labeled example may be any of the copies
    found = fkjax.select(pool, VALIDATION, budget=397, labeled=labeled)
    closed = {0, 401, 402, 403, 404, 405}
    assert set(found.indices) == set(range(406)) - {*labeled, *closed}
    of_others, of_labeled, of_known = found.notes
    assert of_others.startswith("1 of 403") and "is an exact copy" in of_others
    assert of_labeled.startswith("2 of 403") and "labeled examples" in of_labeled
    assert of_known.startswith("3 of 403") and "validation examples" in of_known


def test_copies_with_different_labels_are_named():
    names = [f"v{i}" for i in range(len(LABELS) + 1)]
    known = joined(VALIDATION, VALIDATION, [4]) | {"ids": names}
    known["labels"][-1] = (LABELS[4] + 1) % CLASSES
    with pytest.warns(UserWarning, match=f"different labels: v4 .*, {names[-1]} "):
        fkjax.select(POOL, known, budget=1)
    groups, labels = np.repeat(np.arange(30), 2), np.tile([0, 1], 30)
    sentences = conflicts(groups, labels, range(60), ["cat", "dog"])
    assert len(sentences) == 21 and sentences[-1].startswith("10 more groups")
    assert sentences[0].endswith("labels: 0 (cat), 1 (dog)")
    labels[1], labels[3] = 0, -1  # equal, and unknown
    assert len(conflicts(groups[:6], labels[:6], range(6), ["cat", "dog"])) == 1


def test_rows_that_are_not_finite_are_all_named():
    pool = {name: rows.copy() for name, rows in POOL.items()}
    pool["features"][[3, 8]] = np.nan
    pool["logits"][8] = pool["logits"][3]
    with pytest.raises(fkjax.UserError, match=r"2 pool example\(s\) .* \(ids 3, 8\)"):
        fkjax.select(pool, VALIDATION, budget=3)


def test_the_command_reports_copies(tmp_path, capsys):
    np.savez(tmp_path / "pool.npz", **REPEATED)
    np.savez(tmp_path / "validation.npz", **VALIDATION)
    argv = [
        *("--pool", str(tmp_path / "pool.npz"), "--budget", "9"),
        *("--validation", str(tmp_path / "validation.npz")),
        *("--report", str(tmp_path / "page.html")),
    ]
    assert main(argv) == 0
    note = "1,600 of 2,000 unlabeled examples are exact copies of others"
    assert note in capsys.readouterr().err
    assert note in (tmp_path / "page.html").read_text()
    assert main([*argv, "--keep-copies"]) == 0
    assert "exact cop" not in capsys.readouterr().err
