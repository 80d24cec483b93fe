"""`fkjax.select` as a function and as a command."""

import csv
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

import fkjax
from fkjax.base import UserError
from fkjax.commands.select import main
from fkjax.selection.choose import probabilities
from fkjax.selection.picks import read_ids
from tests.selection.test_from_outputs import POOL, VALIDATION
from tests.selection.test_id_cells import HARD


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "pool.npz", **POOL)
    np.savez(tmp_path / "validation.npz", **VALIDATION)
    return [
        *("--pool", str(tmp_path / "pool.npz")),
        *("--validation", str(tmp_path / "validation.npz")),
    ]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_package_has_the_function():
    assert inspect.isfunction(fkjax.select)
    assert list(inspect.signature(fkjax.select).parameters)[:2] == [
        "pool",
        "validation",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "import fkjax, sys; print('jax' in sys.modules);"
         "print(fkjax.select.__name__, 'jax' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "select", "True"]
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        _ = fkjax.selekt


def test_the_command_writes_what_the_function_gives(files, tmp_path, capsys):
    output = tmp_path / "picks.csv"
    argv = [*files, "--budget", "12", "--output", str(output)]
    assert main(argv) == 0
    picks = fkjax.select(POOL, VALIDATION, budget=12).picks
    rows = rows_of(output)
    assert [int(row["id"]) for row in rows] == [p.id for p in picks]
    for row, pick in zip(rows, picks, strict=True):
        assert row["reason"] == pick.reason and int(row["rank"]) == pick.rank
        assert float(row["score"]) == pytest.approx(pick.score, rel=1e-5)
        assert (row["answers"], row["answers_label"], row["answers_predicted"]) == (
            str(pick.answers.id), *pick.answers[1:]
        )  # fmt: skip
    said = capsys.readouterr().out
    assert "12 of 400 unlabeled examples" in said and "2 more are not shown" in said
    assert str(picks[0].id) in said
    before = output.read_bytes()
    assert main(argv) == 0 and output.read_bytes() == before


def test_the_page_tells_how_biased_the_pool_is(files, tmp_path):
    page = tmp_path / "page.html"
    argv = [*files, "--budget", "3", "--report", str(page)]
    assert main(argv) == 0
    source = page.read_text(encoding="utf-8")
    picks = fkjax.select(POOL, VALIDATION, budget=3).picks
    assert all(f"<td>{pick.id}<" in source for pick in picks)
    assert "Is the pool biased?" in source and 'class="verdict' in source
    before = page.read_bytes()
    assert main(argv) == 0 and page.read_bytes() == before


def test_the_page_does_without_an_estimate_if_the_validation_set_lacks_a_class(
    tmp_path,
):
    known = np.flatnonzero(VALIDATION["labels"] != 2)
    np.savez(tmp_path / "pool.npz", **POOL)
    lacking = {name: np.asarray(x)[known] for name, x in VALIDATION.items()}
    np.savez(tmp_path / "validation.npz", **lacking)
    page = tmp_path / "page.html"
    argv = ["--pool", str(tmp_path / "pool.npz"), "--budget", "3"]
    argv += ["--validation", str(tmp_path / "validation.npz"), "--report", str(page)]
    assert main(argv) == 0
    source = page.read_text(encoding="utf-8")
    assert (
        "was not estimated. The validation set must have an example of each" in source
    )
    assert "<li>The validation set has no example of 2: the pool" in source
    often = int((POOL["logits"].argmax(axis=1) == 2).sum())
    assert f"predicts these classes for {often} of 400 unlabeled examples" in source
    assert "nan" not in source.split("</style>")[1].lower()


def test_earlier_picks_are_left_out(files, tmp_path):
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    assert main([*files, "--budget", "9", "--output", str(first)]) == 0
    more = ["--budget", "9", "--output", str(second), "--labeled", str(first)]
    assert main([*files, *more]) == 0
    assert not {r["id"] for r in rows_of(first)} & {r["id"] for r in rows_of(second)}


def test_ids_that_a_spreadsheet_would_run_come_back_as_they_were(tmp_path):
    ids = np.array([f"=HYPERLINK({i})" for i in range(400)])
    np.savez(tmp_path / "pool.npz", **POOL, ids=ids)
    np.savez(tmp_path / "validation.npz", **VALIDATION)
    argv = ["--pool", str(tmp_path / "pool.npz"), "--budget", "2"]
    argv += ["--validation", str(tmp_path / "validation.npz")]
    output = tmp_path / "picks.csv"
    assert main([*argv, "--output", str(output)]) == 0
    assert all(r["id"].startswith("'=") for r in rows_of(output))
    assert set(read_ids(output)) <= set(ids.tolist())


def test_ids_that_look_otherwise_in_a_cell_are_left_out(tmp_path):
    ids = np.array([*HARD, *(f"i{k}" for k in range(400 - len(HARD)))])
    np.savez(tmp_path / "pool.npz", **POOL, ids=ids)
    np.savez(tmp_path / "validation.npz", **VALIDATION)
    argv = ["--pool", str(tmp_path / "pool.npz"), "--strategy", "random"]
    argv += ["--validation", str(tmp_path / "validation.npz")]
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    assert main([*argv, "--budget", "390", "--output", str(first)]) == 0
    with first.open(newline="") as file:
        rows = list(csv.reader(file))
    with first.open("w", newline="", encoding="utf-16") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    argv += ["--labeled", str(first), "--budget", "10", "--output", str(second)]
    assert main(argv) == 0
    assert main([*argv, "--budget", "11"]) == 2


def test_the_picks_of_ids_in_bytes_are_labeled_examples(tmp_path):
    ids = np.array([f"é {i}.jpg".encode() for i in range(400)])
    np.savez(tmp_path / "pool.npz", **POOL, ids=ids)
    np.savez(tmp_path / "validation.npz", **VALIDATION)
    files = ["--pool", str(tmp_path / "pool.npz"), "--budget", "9"]
    files += ["--validation", str(tmp_path / "validation.npz")]
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    assert main([*files, "--output", str(first)]) == 0
    chosen = set(read_ids(first))
    assert chosen <= {i.decode() for i in ids}
    assert main([*files, "--output", str(second), "--labeled", str(first)]) == 0
    assert not chosen & set(read_ids(second))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--budget", "401"], "from 1 to the 400"),
        (["--strategy", "bald"], "bald needs the network, not"),
        (["--strategy", "fisher_nerest"], "did you mean 'fisher_nearest'"),
        (["--labeled", "none.csv"], "could not read none.csv"),
        (["--labeled", "{tmp}/pool.npz"], "not a CSV file|column id"),
        (["--classes", "a", "b"], "3 classes"),
        (["--output", "{tmp}/pool.npz"], "was not written by this command"),
        (["--output", "{tmp}/none/picks.csv"], "an existing folder"),
        (["--pool", "{tmp}/none.npz"], "could not be read"),
        (["--report", "{tmp}"], "--report must be a file"),
        (["--images", "{tmp}", "--labels", "{tmp}/a.csv"], "give either --pool"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(files, tmp_path, capsys, more, match):
    before = (tmp_path / "pool.npz").read_bytes()
    more = [word.replace("{tmp}", str(tmp_path)) for word in more]
    assert main([*files, *more]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert re.search(match, said.err) and said.err.startswith("fkjax: ")
    assert (tmp_path / "pool.npz").read_bytes() == before


def test_without_files_it_says_what_is_needed(capsys):
    assert main([]) == 2
    assert "--pool and --validation or --images and --labels" in capsys.readouterr().err
    assert main(["--images", "a", "--labels", "b", "--classes", "c", "d"]) == 2
    assert "--classes cannot be used with --images" in capsys.readouterr().err


def test_a_report_computes_probabilities_only_of_the_part_that_is_used(
    files, tmp_path, monkeypatch
):
    asked = []

    def counted(problem, examples):
        asked.append(len(examples))
        return probabilities(problem, examples)

    def bias(of_pool, *others, **options):
        del others, options
        raise UserError(f"{len(of_pool)} are not enough")

    monkeypatch.setattr("fkjax.commands.select.bias", bias)
    monkeypatch.setattr("fkjax.label_shift.shift.MOST_POOL", 150)
    monkeypatch.setattr("fkjax.commands.select.probabilities", counted)
    page = tmp_path / "page.html"
    assert main([*files, "--budget", "12", "--report", str(page)]) == 0
    assert asked == [150, len(VALIDATION["labels"])]
    assert "150 are not enough" in page.read_text()


def test_mistakes_on_what_was_trained_on_are_not_used(files, tmp_path, capsys):
    """The model may have been trained on the validation set, if the user says so."""
    page = tmp_path / "picks.html"
    argv = [*files, "--budget", "3", "--trained-on-validation"]
    assert main(argv) == 2
    assert "fisher_nearest uses the model's mistakes on the" in capsys.readouterr().err
    with pytest.raises(
        fkjax.UserError, match="feature_match uses the model's mistakes"
    ):
        fkjax.select(
            *(POOL, VALIDATION),
            budget=3,
            strategy="feature_match",
            trained_on_validation=True,
        )
    assert main([*argv, "--strategy", "margin", "--report", str(page)]) == 0
    assert "its mistakes there are fewer than in deployment" in capsys.readouterr().err
    assert "The model was trained on the validation set" in page.read_text()
    argv = ["--images", "d", "--labels", "f", "--trained-on-validation"]
    assert main(argv) == 2
    assert "cannot be used with --images" in capsys.readouterr().err
