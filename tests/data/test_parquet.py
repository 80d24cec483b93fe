"""Columns of Parquet files, of each type that numbers and text can have."""

import decimal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fkjax.base import UserError
from fkjax.data.column_files import as_table, read_columns
from fkjax.data.columns import take_rows

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def written(folder, **columns):
    path = folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=4)
    return path


def with_empty_groups(folder, tables):
    path = folder / "a.parquet"
    with pyarrow.parquet.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.list_(pyarrow.float32()),
        pyarrow.list_(pyarrow.float16()),
        pyarrow.list_(pyarrow.float64(), 2),
        pyarrow.large_list(pyarrow.float32()),
        pyarrow.list_(pyarrow.int64()),
    ],
)
def test_lists_are_rows(kind, tmp_path):
    given = ROWS.astype(kind.value_type.to_pandas_dtype())
    path = written(tmp_path, features=pyarrow.array(list(given), kind))
    found = read_columns(path)["features"]
    assert found.shape == (6, 2)
    np.testing.assert_array_equal(
        take_rows(found, np.array([5, 0, 4])), ROWS[[5, 0, 4]]
    )


def test_tensors_and_nested_lists_have_their_shape(tmp_path):
    images = np.arange(48, dtype=np.uint8).reshape(6, 2, 4)
    tensors = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(images)
    for given in (tensors, pyarrow.array(images.tolist())):
        found = read_columns(written(tmp_path, images=given))["images"]
        np.testing.assert_array_equal(found[:], images)


@pytest.mark.parametrize(
    "kind",
    [
        *(pyarrow.string(), pyarrow.large_string(), pyarrow.binary()),
        *(pyarrow.large_binary(), pyarrow.binary(2)),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
    ],
)
def test_text_of_each_kind_is_read(kind, tmp_path):
    ids = ["a1", "b2", "c3", "d4", "e5", "é"]
    cells = [i.encode() for i in ids] if "binary" in str(kind) else ids
    features = pyarrow.array(list(ROWS))
    path = written(tmp_path, ids=pyarrow.array(cells, kind), features=features)
    table = as_table(path, needed=["features"], what="pool")
    assert table.ids.tolist() == ids


def test_decimals_are_floats(tmp_path):
    rows = [[decimal.Decimal("1.5")], [decimal.Decimal("2.5")]]
    found = read_columns(written(tmp_path, features=pyarrow.array(rows)))["features"]
    assert found[:].tolist() == [[1.5], [2.5]]


def test_empty_row_groups_are_skipped(tmp_path):
    table = pyarrow.table({"features": pyarrow.array(list(ROWS))})
    empty = table.slice(0, 0)
    parts = [empty, table.slice(0, 4), empty, empty, table.slice(4), empty]
    path = with_empty_groups(tmp_path, parts)
    assert pyarrow.parquet.ParquetFile(path).num_row_groups > 2
    found = read_columns(path)["features"]
    for ids in (range(6), [3, 4], [5, 0], []):
        ids = np.array(ids, int)
        np.testing.assert_array_equal(take_rows(found, ids), ROWS[ids])


def test_a_file_without_rows_is_refused_but_not_called_damaged(tmp_path):
    path = written(tmp_path, features=pyarrow.array(list(ROWS)).slice(0, 0))
    with pytest.raises(UserError, match="a.parquet: the column features has no row"):
        read_columns(path)


def test_groups_with_lists_of_different_lengths_are_refused(tmp_path):
    rows = [[1.0, 2.0]] * 4 + [[1.0, 2.0, 3.0]] * 4
    found = read_columns(written(tmp_path, features=pyarrow.array(rows)))["features"]
    assert found.shape == (8, 2)
    with pytest.raises(UserError, match="lists of the same length"):
        take_rows(found, np.arange(8))


def test_columns_that_are_not_needed_may_be_of_any_type(tmp_path):
    path = written(
        tmp_path,
        features=pyarrow.array(list(ROWS)),
        labels=pyarrow.array(["cat", None] * 3),
        images=pyarrow.array([{"path": "a"}] * 6),
    )
    table = as_table(path, needed=["features"], what="pool")
    assert list(table.columns) == ["features"]
    with pytest.raises(UserError, match="labels has empty cells"):
        as_table(path, needed=["labels"], what="pool")
    with pytest.raises(UserError, match="images is of type struct"):
        as_table(path, needed=["images"], what="pool")
