"""The column of a CSV file of labels that names the set of each image."""

import pytest

from fkjax.base import UserError
from fkjax.data.label_sets import SETS, ignored_columns, set_column, set_of
from fkjax.files.spreadsheet import Problems, Row


def rows_of(column, values):
    return [
        Row(line, {"file": f"{line}.png", "label": "a", column: value})
        for line, value in enumerate(values, start=2)
    ]


@pytest.mark.parametrize("column", ["set", "split"])
def test_usual_names_of_sets_are_taken(column):
    given = ["", "val", "Valid", "dev", "train", "TRAINING", "test", "testing", "other"]
    rows, problems = rows_of(column, given), Problems("labels.csv")
    assert set_column(rows, problems) == column and not len(problems)
    found = [set_of(row.cells, column) for row in rows]
    assert found == [SETS[0]] * 4 + ["train"] * 2 + ["test"] * 2 + ["other"]


def test_without_such_a_column_every_image_is_of_the_validation_set():
    problems = Problems("labels.csv")
    for column in ("label", "width", "dataset", "comment"):
        rows = rows_of(column, ["test tube", "12", ""])
        assert set_column(rows, problems) is None
        assert set_of(rows[0].cells, None) == SETS[0]
    assert set_column([], problems) is None and not len(problems)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("group", ["train", "val", ""]),
        ("fold", ["0", "1"]),
        ("is_train", ["1", "0"]),
        ("val", ["yes", ""]),
        ("dataset", ["train", "holdout"]),
    ],
)
def test_another_column_that_seems_to_name_sets_is_refused(column, values):
    problems = Problems("labels.csv")
    assert set_column(rows_of(column, values), problems) is None
    with pytest.raises(UserError, match=f"column {column} seems .* call it set"):
        problems.raise_any("fix the file")


def test_two_columns_must_agree():
    rows = [Row(2, {"set": "val", "split": "validation"})]
    problems = Problems("labels.csv")
    assert set_column(rows, problems) == "set" and not len(problems)
    rows.append(Row(3, {"set": "train", "split": "test"}))
    set_column(rows, problems)
    with pytest.raises(UserError, match="set and split, which differ"):
        problems.raise_any("fix the file")


def test_other_columns_are_named():
    cells = dict.fromkeys(["file", "label", "split", "width", "", "height"], "1")
    assert ignored_columns([Row(2, cells)]) == ["width", "height"]
    assert ignored_columns([]) == []
