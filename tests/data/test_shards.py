"""Shards of arrays: folders, patterns, numbered files and indices."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from fkjax.base import UserError
from fkjax.data import shards
from fkjax.data.column_files import as_table, read_columns
from fkjax.data.columns import take_rows
from fkjax.selection.from_outputs import problem_of_outputs

NUM = 36
FEATURES = np.arange(4 * NUM, dtype=np.float32).reshape(NUM, 4)
LOGITS = FEATURES[:, :3] * [1, -2, 1]
SIZES = [3] * 12  # with shards 10 and 11, whose names sort before 2
IDS = [f"id {i}" for i in range(NUM)]
POSITIONS = [range(NUM), [], [35, 0, 7], range(2, 31)]


def parts(**arrays):
    """Yields the number of each shard, and its arrays."""
    starts = np.cumsum([0, *SIZES])
    for i in range(len(SIZES)):
        rows = slice(starts[i], starts[i + 1])
        yield i, {name: array[rows] for name, array in arrays.items()}


def write_parquet(path, arrays):
    columns = {name: pyarrow.array(list(rows)) for name, rows in arrays.items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


def write_npz(folder):
    for i, arrays in parts(features=FEATURES, logits=LOGITS):
        np.savez(folder / f"pool-{i}.npz", **arrays)


def write_npy(folder):
    for i, arrays in parts(features=FEATURES, logits=LOGITS):
        for name, rows in arrays.items():
            np.save(folder / f"{name}_part{i}.npy", rows)


def write_spark(folder):
    (folder / "_SUCCESS").write_text("")
    (folder / "._SUCCESS.crc").write_text("")
    (folder / "README.md").write_text("")
    for i, arrays in parts(features=FEATURES, logits=LOGITS):
        name = f"part-{i:05}-3f2a1b9c-8d7e-4f5a-9b1c-0123456789ab-c000.snappy.parquet"
        write_parquet(folder / name, arrays)
    name = name.replace("part-00011", "part-00099")
    write_parquet(folder / name, {"features": FEATURES[:0], "logits": LOGITS[:0]})


def write_hive(folder):
    for i, arrays in parts(features=FEATURES, logits=LOGITS):
        inside = folder / f"date=2026-01-{i + 1:02}"
        inside.mkdir()
        write_parquet(inside / "part-0.parquet", arrays)


def write_safetensors(folder):
    for i, arrays in parts(features=FEATURES, logits=LOGITS):
        arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
        file = folder / f"pool-{i + 1:05}-of-00012.safetensors"
        safetensors.numpy.save_file(arrays, file)


def write_arrow(folder):
    (folder / "dataset_info.json").write_text("{}")
    for i, arrays in parts(features=FEATURES, logits=LOGITS):
        table = pyarrow.table({n: pyarrow.array(list(x)) for n, x in arrays.items()})
        kind = pyarrow.ipc.new_file if i % 2 else pyarrow.ipc.new_stream
        file = folder / f"data-{i:05}-of-00012.arrow"
        with pyarrow.OSFile(str(file), "wb") as sink, kind(sink, table.schema) as out:
            out.write_table(table)


WRITERS = [
    *(write_npz, write_npy, write_spark, write_hive, write_safetensors, write_arrow)
]


@pytest.mark.parametrize("is_pattern", [False, True])
@pytest.mark.parametrize("write", WRITERS)
def test_the_shards_of_a_set_are_read_in_the_order_of_their_numbers(
    write, is_pattern, tmp_path
):
    write(tmp_path)
    columns = read_columns(f"{tmp_path}/*" if is_pattern else tmp_path)
    for name, expected in (("features", FEATURES), ("logits", LOGITS)):
        assert columns[name].shape == expected.shape
        for ids in POSITIONS:
            ids = np.array(ids, int)
            np.testing.assert_array_equal(take_rows(columns[name], ids), expected[ids])
        np.testing.assert_array_equal(columns[name][30:100], expected[30:])
    table = as_table(tmp_path, needed=["features"], what="pool")
    assert table.ids == range(NUM)


def test_files_whose_names_differ_in_numbers_are_shards(tmp_path):
    write_npz(tmp_path)
    files = [tmp_path / f"pool-{i}.npz" for i in range(12)]
    np.testing.assert_array_equal(read_columns(files)["features"][:], FEATURES)
    given = [f"{tmp_path}/pool-?.npz", f"{tmp_path}/pool-1?.npz"]
    np.testing.assert_array_equal(read_columns(given)["features"][:], FEATURES)
    with pytest.raises(UserError, match="with pool-10.npz after pool-1.npz, .*quotes"):
        read_columns(sorted(map(str, files)))
    for i, arrays in parts(features=FEATURES, logits=LOGITS, ids=np.array(IDS)):
        np.savez(tmp_path / f"pool-{i}.npz", **arrays)
    table = as_table(sorted(map(str, files)), needed=["features"], what="pool")
    order = [IDS.index(i) for i in table.ids]
    assert sorted(order) == list(range(NUM)) != order
    np.testing.assert_array_equal(table["features"][:], FEATURES[order])


def test_an_array_may_have_its_own_pattern_or_folder(tmp_path):
    for name, array in (("features", FEATURES), ("logits", LOGITS)):
        (tmp_path / name).mkdir()
        for i, rows in parts(x=array):
            np.save(tmp_path / name / f"{i}.npy", rows["x"])
    for end in ("", "/*.npy"):
        given = [f"{name}={tmp_path}/{name}{end}" for name in ("features", "logits")]
        columns = read_columns(given)
        np.testing.assert_array_equal(columns["features"][:], FEATURES)
        np.testing.assert_array_equal(columns["logits"][:], LOGITS)


def test_an_index_of_safetensors_files_is_read(tmp_path):
    names = ["pool-00001-of-00002.safetensors", "pool-00002-of-00002.safetensors"]
    safetensors.numpy.save_file({"features": FEATURES}, tmp_path / names[0])
    safetensors.numpy.save_file(
        {"logits": np.ascontiguousarray(LOGITS)}, tmp_path / names[1]
    )
    index = tmp_path / "pool.safetensors.index.json"
    places = {"features": names[0], "logits": names[1], "x": "none.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for given in (index, tmp_path):
        columns = read_columns(given)
        np.testing.assert_array_equal(columns["features"][:], FEATURES)
        np.testing.assert_array_equal(columns["logits"][:], LOGITS)
    (tmp_path / names[1]).unlink()
    refused(index, "pool-00002-of-00002.safetensors could not be read")
    for text in ("[]", '{"weight_map": 3}', "{"):
        index.write_text(text)
        refused(index, "is not an index of safetensors files")


def test_files_that_are_opened_again_give_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN", 1)
    write_npz(tmp_path)
    features = read_columns(tmp_path)["features"]
    for ids in POSITIONS:
        ids = np.array(ids, int)
        np.testing.assert_array_equal(take_rows(features, ids), FEATURES[ids])


def test_the_pool_of_shards_is_that_of_the_arrays(tmp_path):
    write_npy(tmp_path)
    part = {"features": FEATURES, "logits": LOGITS}
    known = part | {"labels": np.arange(NUM) % 3}
    found = problem_of_outputs(f"{tmp_path}/*.npy", known)
    np.testing.assert_array_equal(found.pool, problem_of_outputs(part, known).pool)
    assert found.pool_ids == range(NUM)


def refused(paths, match):
    with pytest.raises(UserError, match=match) as caught:
        read_columns(paths)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
    write_safetensors(tmp_path)
    (tmp_path / "pool-00003-of-00012.safetensors").unlink()
    match = "pool-00003-of-00012.safetensors is missing, and in all 1 of 00012"
    refused(tmp_path, match)
    refused(f"{tmp_path}/*.safetensors", match)
    refused(sorted(tmp_path.iterdir()), match)
    one = tmp_path / "pool-00002-of-00012.safetensors"
    assert read_columns(one)["features"].shape == (3, 4)  # named by the user


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"features": FEATURES}, "pool-2.npz contains features, but .*pool-1.npz con"),
        ({"features": FEATURES[:, 1:], "logits": LOGITS}, r"2.npz is .*\(3,\), .*\(4,"),
        ({"features": FEATURES.astype(float), "logits": LOGITS}, "2.npz is float64"),
        ({"features": FEATURES.astype(str), "logits": LOGITS}, "2.npz is text"),
    ],
)
def test_a_shard_that_differs_is_named(arrays, match, tmp_path):
    np.savez(tmp_path / "pool-1.npz", features=FEATURES, logits=LOGITS)
    np.savez(tmp_path / "pool-2.npz", **arrays)
    refused(tmp_path, match)


def test_files_that_may_be_of_different_sets_are_refused(tmp_path):
    for name in ("train-0.npz", "test-0.npz"):
        np.savez(tmp_path / name, features=FEATURES)
    refused(tmp_path, "different names, such as test-0.npz and train-0.npz")
    refused(list(tmp_path.iterdir()), "but a previous file does, too")
    assert len(read_columns(f"{tmp_path}/*.npz")["features"]) == 2 * NUM
    refused([f"{tmp_path}/*", tmp_path / "train-0.npz"], "a previous file does, too")


def test_shards_of_two_arrays_have_the_same_numbers_and_rows(tmp_path):
    for i in (0, 1, 3):
        np.save(tmp_path / f"features-{i}.npy", FEATURES[:4])
    for i in (0, 1, 2):
        np.save(tmp_path / f"logits-{i}.npy", LOGITS[:4])
    refused(tmp_path, "got logits-2.npy and features-3.npy as the last; rename")
    (tmp_path / "features-3.npy").rename(tmp_path / "features-2.npy")
    assert len(read_columns(tmp_path)["features"]) == 12
    np.save(tmp_path / "logits-1.npy", LOGITS[:3])
    np.save(tmp_path / "logits-2.npy", LOGITS[:5])
    refused(tmp_path, "logits-1.npy has 3 rows of logits, but .*features-1.npy 4")


def test_folders_that_are_not_of_one_set_are_refused(tmp_path):
    refused(tmp_path, "denotes no file of arrays")
    refused(f"{tmp_path}/*.npz", "denotes no file of arrays")
    write_npz(tmp_path)
    (tmp_path / "pool-12.npz.part").write_text("")
    refused(tmp_path, "contains pool-12.npz.part, which is not a file of arrays")
    (tmp_path / "pool-12.npz.part").unlink()
    (tmp_path / "train").mkdir()
    refused(tmp_path, "contains the folder train, so that it can be more than one set")
    (tmp_path / "train").rename(tmp_path / "labels=cat")
    refused(tmp_path, "contains the folder labels=cat, whose name contains labels")


def test_shards_without_rows_are_refused(tmp_path):
    for i in range(2):
        np.savez(tmp_path / f"pool-{i}.npz", features=FEATURES[:0])
    refused(tmp_path, "features has no row in .*pool-0.npz and 1 more")


def test_what_is_wrong_in_a_shard_is_told_with_its_name(tmp_path):
    for i in range(2):
        rows = FEATURES.tolist()
        rows[20] = None if i else rows[20]
        table = pyarrow.table({"features": pyarrow.array(rows)})
        pyarrow.parquet.write_table(
            table, tmp_path / f"pool-{i}.parquet", row_group_size=4
        )
    features = read_columns(tmp_path)["features"]
    with pytest.raises(
        UserError, match="pool-1.parquet: .*empty cells in row 20; fill"
    ):
        features[:]


def test_a_file_with_the_signs_of_a_pattern_is_a_file(tmp_path):
    path = tmp_path / "pool[1].npz"
    np.savez(path, features=FEATURES)
    assert len(read_columns(path)["features"]) == NUM
