"""Probabilities and log-probabilities in place of logits."""

import warnings

import numpy as np
import pytest

import fkjax
from fkjax.base import UserError
from fkjax.commands.select import main
from fkjax.data import columns as arrays
from fkjax.selection.from_outputs import problem_of_outputs
from fkjax.selection.probabilities import are_probabilities, are_within, logs
from tests.selection.test_from_outputs import POOL, VALIDATION


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def renamed(part, name, values):
    return {k: v for k, v in part.items() if k != "logits"} | {name: values}


P = [softmax(part["logits"]) for part in (POOL, VALIDATION)]
AS_LOGITS = [
    renamed(part, "logits", p) for part, p in zip((POOL, VALIDATION), P, strict=True)
]
NAMED = [
    renamed(part, "probabilities", p)
    for part, p in zip((POOL, VALIDATION), P, strict=True)
]


SIGMOID = [1 / (1 + np.exp(-part["logits"])) for part in (POOL, VALIDATION)]


def picked(*parts, **options):
    return [p.id for p in fkjax.select(*parts, budget=20, **options).picks]


EXPECTED = picked(POOL, VALIDATION)


def test_probabilities_by_name_give_the_picks_of_logits_without_a_warning():
    assert picked(*NAMED) == EXPECTED
    log_probs = [renamed(part, "log_probs", np.log(part["logits"]))
                 for part in AS_LOGITS]  # fmt: skip
    assert picked(*log_probs) == EXPECTED
    assert picked(POOL, NAMED[1]) == picked(NAMED[0], log_probs[1]) == EXPECTED
    assert picked(POOL | {"probabilities": P[0][:, ::-1]}, VALIDATION) == EXPECTED


def test_logits_that_are_probabilities_are_taken_as_such_with_a_warning():
    with pytest.warns(UserWarning, match="pool and the validation .* name the array"):
        assert picked(*AS_LOGITS) == EXPECTED
    with pytest.warns(UserWarning, match="logits of the validation set"):
        assert picked(NAMED[0], AS_LOGITS[1]) == EXPECTED
    half = [renamed(p, "logits", p["logits"].astype(np.float16)) for p in AS_LOGITS]
    said = []
    problem_of_outputs(*half, warn=said.append)
    assert len(said) == 1


def test_the_command_says_how_it_took_them(tmp_path, capsys):
    argv = ["--budget", "2"]
    for part, name in zip(AS_LOGITS, ("pool", "validation"), strict=True):
        np.savez(tmp_path / f"{name}.npz", **part)
        argv += [f"--{name}", str(tmp_path / f"{name}.npz")]
    assert main(argv) == 0
    said = capsys.readouterr().err
    assert said.startswith("fkjax: the logits of the pool and the validation set")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("pool", "validation", "match"),
    [
        (AS_LOGITS[0], VALIDATION, "logits of the pool are .* the others do not"),
        (POOL, AS_LOGITS[1], "logits of the validation set are .* the others do not"),
        (renamed(POOL, "log_probs", P[0]), VALIDATION, "name the array probabilities"),
        (renamed(POOL, "probabilities", POOL["logits"]), VALIDATION, "name .* logits"),
        (renamed(POOL, "logits", np.eye(3)[P[0].argmax(1)]),
         renamed(VALIDATION, "logits", np.eye(3)[P[1].argmax(1)]), "only 0 and 1"),
        (renamed(POOL, "logits", 100 * P[0]), VALIDATION,
         "logits of the pool .* add up to 100, .*: divide them by 100 and name"),
        (POOL, renamed(VALIDATION, "logits", np.round(100 * P[1], 1)),
         "logits of the validation set .* add up to 100"),
        (renamed(POOL, "probabilities", 100 * P[0]), VALIDATION, "percentages by 100"),
        (renamed(POOL, "logits", SIGMOID[0]), renamed(VALIDATION, "logits", SIGMOID[1]),
         r"pool and the validation set are all from 0 to 1, .* np.log\(p / "),
        (renamed(POOL, "probabilities", SIGMOID[0]), VALIDATION, "sigmoid by their"),
        (renamed(POOL, "scores", P[0]), VALIDATION,
         "pool must have logits, got .*; log_probs or probabilities will"),
        (renamed(POOL, "probabilities", P[0][:, :1]), VALIDATION, "2 or more classes"),
    ],
)  # fmt: skip
def test_what_is_not_what_its_name_says_is_refused(pool, validation, match):
    with pytest.raises(UserError, match=match), warnings.catch_warnings():
        warnings.simplefilter("error")
        problem_of_outputs(pool, validation)


def test_logits_that_can_be_cosine_similarities_are_taken_with_a_warning():
    said = []
    small = [part | {"logits": np.tanh(part["logits"])} for part in (POOL, VALIDATION)]
    found = problem_of_outputs(*small, warn=said.append)
    assert len(said) == 1 and "are all from -1 to 1" in said[0]
    assert "multiply them by the scale of the network, 100 for CLIP" in said[0]
    rows = found.pool[:, 0, 0, -3:]
    np.testing.assert_allclose(rows, small[0]["logits"], rtol=1e-6)
    scaled = [part | {"logits": 100 * part["logits"]} for part in small]
    problem_of_outputs(*scaled, warn=said.append)
    problem_of_outputs(small[0], VALIDATION, warn=said.append)
    shifted = [part | {"logits": s - 1} for part, s in zip(small, SIGMOID, strict=True)]
    assert len(said) == 1
    problem_of_outputs(*shifted, warn=said.append)
    assert len(said) == 2 and said[1] == said[0]


def test_few_numbers_in_a_range_are_logits():
    assert are_within(np.full((10, 2), [0, 1]), 0, 1)
    assert not are_within(np.full((9, 2), [0, 1]), 0, 1)
    assert not are_within(np.full((20, 2), [0.5, np.nan]), 0, 1)
    assert not are_within(np.full((20, 2), [0.5, 1.5]), 0, 1)


def test_rows_far_into_a_large_pool_are_checked_when_they_are_read(monkeypatch):
    monkeypatch.setattr(arrays, "_IN_MEMORY", 0)
    pool = {name: np.repeat(rows, 4, axis=0) for name, rows in NAMED[0].items()}
    pool["probabilities"][1500] = -1
    with pytest.raises(UserError, match="probabilities of the pool must be 0 or more"):
        picked(pool, NAMED[1])


def test_zeros_have_finite_logarithms_and_nan_stays():
    rows = np.array([[0.0, 1.0], [np.nan, 1.0]])
    found = logs(rows, "pool")
    assert found.dtype == np.float32 and np.isfinite(found[0]).all()
    assert np.isnan(found[1, 0])
    assert are_probabilities(rows) and not are_probabilities(rows[1:])
    with pytest.raises(UserError, match="probabilities of the pool"):
        logs(np.array([[0.5, 0.1]]), "pool")
