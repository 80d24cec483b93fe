"""Figures from runs that are executed, reused or rejected."""

import dataclasses

import pytest

from benchmarks import paper, reproduce, runs
from benchmarks.runs import Part, records_of
from fkjax.base import UserError
from fkjax.runs.folder import RunFolder
from tests.records import record

PART = Part("a", {"random": "chance", "vaal": "vaal"}, {"rounds": 2, "budget": 3})


@pytest.fixture
def made(monkeypatch):
    """The configurations that were run, by a replacement that writes records."""
    configs = []

    def run(config):
        configs.append(config)
        is_there = RunFolder.holds_run(config.output_dir)
        open_folder = RunFolder.open if is_there else RunFolder.create
        folder = open_folder(config.output_dir)
        folder.write_config(dataclasses.asdict(config) | {"versions": {}})
        records = [
            record(strategy=s, seed=config.seed, round=r, num_labeled=3 * r)
            for s in config.strategies
            for r in range(1, config.rounds + 1)
        ]
        for one in records:
            folder.append_record(one)
        return records

    monkeypatch.setattr(runs, "run", run)
    return configs


def records(folder, seeds, part=PART, draw_only=False):
    options = {"runs_dir": str(folder), "data_dir": None, "draw_only": draw_only}
    return list(records_of([part], seeds, **options))


def test_what_is_finished_is_not_run_again(made, tmp_path):
    first = records(tmp_path, [6])
    assert [r["strategy"] for r in first] == ["chance"] * 2 + ["vaal"] * 2
    both = records(tmp_path, [6, 7])
    assert [config.seed for config in made] == [6, 7]
    assert [r for r in both if r["seed"] == 6] == first
    config = made[0]
    assert (config.rounds, config.budget, config.seeds) == (2, 3, 1)
    assert config.strategies == ("random", "vaal") and config.dataset == "mnist"


def test_what_takes_too_long_has_fewer_seeds(made, tmp_path):
    rows = records(tmp_path, [6, 7, 8], part=PART._replace(max_seeds=2))
    assert {r["seed"] for r in rows} == {6, 7} and len(made) == 2


def test_an_ensembles_members_are_a_column():
    rows = [record(strategy="a", member_accuracy=[0.3, 0.5]), record(strategy="b")]
    ((member),) = reproduce._members(rows)
    assert member["strategy"] == "a, a member"
    assert member["test_accuracy"] == pytest.approx(0.4)


def test_a_stopped_run_goes_on(made, tmp_path):
    records(tmp_path, [6])
    path = tmp_path / "a" / "seed-6" / "rounds.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    assert records(tmp_path, [6], draw_only=True) == []
    assert len(records(tmp_path, [6])) == 4
    assert made[1] == made[0]  # `fkjax run` resumes the run


def test_a_run_of_another_configuration_is_refused(made, tmp_path):
    records(tmp_path, [6])
    other = PART._replace(changes=PART.changes | {"budget": 4})
    with pytest.raises(UserError, match="run with budget 3, but 4 is needed"):
        records(tmp_path, [6], part=other)
    assert len(made) == 1
    fewer = PART._replace(columns={"vaal": "v"})  # independent of other strategies
    assert {r["strategy"] for r in records(tmp_path, [6], part=fewer)} == {"v"}


def test_the_table_has_the_papers_numbers_below_fkjaxs():
    rows = [
        record(strategy="random", seed=s, round=r, num_labeled=125 * r, test_accuracy=a)
        for s, r, a in ((0, 1, 0.5), (1, 1, 0.6), (0, 2, 0.7), (1, 2, 0.9))
    ]
    text = reproduce.table(rows, {"random": {125: 50.5}}).splitlines()
    assert text[0] == "|  | seeds | 125 | 250 |"
    assert text[2] == "| random | 2 | 55.0 ± 7.1 | 80.0 ± 14.1 |"
    assert text[3] == "| *paper* |  | *50.5* |  |"


@pytest.mark.parametrize("name", reproduce.FIGURES)
def test_every_column_of_the_paper_is_a_column(name):
    figure = reproduce.FIGURES[name]
    columns = [c for part in figure.parts for c in part.columns.values()]
    assert len(columns) == len(set(columns))
    for part in figure.parts:
        part.config(0, data_dir=None, output_dir="x")
    if name == "mnist-100x":
        ablations = {"fisher_covariance L20", "fisher_information L20"}
        assert set(paper.MNIST_100X) - set(columns) == ablations
    if name == "mnist-1x":
        assert set(paper.MNIST_1X) <= set(columns)


def test_the_validation_sizes_are_drawn(tmp_path):
    figure = reproduce.FIGURES["validation-size"]
    rows = [
        record(strategy=c, seed=s, round=r, num_labeled=125 * r, test_accuracy=0.1 * r)
        for part in figure.parts
        for c in part.columns.values()
        for s in (0, 1)
        for r in range(1, 11)
    ]
    ((_, name),) = figure.draw(rows, tmp_path, "sizes")
    assert (tmp_path / name).stat().st_size > 10_000
