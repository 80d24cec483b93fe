"""Columns of each kind of file: reading in parts, and errors for damaged files."""

import json

import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from fkjax.base import UserError
from fkjax.data.column_files import as_table, read_columns
from fkjax.data.columns import Sliced, take_rows

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(30, 4)).astype(np.float32)
LOGITS = RNG.normal(size=(30, 3)).astype(np.float32)
IDS = np.array([f"image {i}" for i in range(30)])


def write_npy(folder):
    np.save(folder / "pool_features.npy", FEATURES)
    np.save(folder / "pool_logits.npy", LOGITS)
    return [folder / "pool_features.npy", folder / "pool_logits.npy"]


def write_npz(folder):
    path = folder / "pool.npz"
    np.savez(path, features=FEATURES, logits=LOGITS, ids=IDS, other=np.ones(2))
    return path


def write_compressed(folder):
    path = folder / "pool.npz"
    np.savez_compressed(path, features=FEATURES, logits=LOGITS, ids=IDS)
    return path


def write_safetensors(folder):
    path = folder / "pool.safetensors"
    safetensors.numpy.save_file({"features": FEATURES, "logits": LOGITS}, path)
    return path


def write_parquet(folder, *, group=7):
    path = folder / "pool.parquet"
    flat = pyarrow.array(FEATURES.ravel())
    table = {
        "features": pyarrow.FixedSizeListArray.from_arrays(flat, 4),
        "logits": pyarrow.array(list(LOGITS)),  # lists of variable length
        "ids": pyarrow.array(IDS.tolist()),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=group)
    return path


WRITERS = [write_npy, write_npz, write_compressed, write_safetensors, write_parquet]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "ids", [range(30), range(5, 19), [3, 28, 3, 0], [29], range(13, 14), []]
)
def test_every_format_gives_the_rows_that_were_written(write, ids, tmp_path):
    columns = read_columns(write(tmp_path))
    ids = np.array(ids, int)
    assert columns["features"].shape == (30, 4) and len(columns["logits"]) == 30
    np.testing.assert_array_equal(take_rows(columns["features"], ids), FEATURES[ids])
    np.testing.assert_array_equal(take_rows(columns["logits"], ids), LOGITS[ids])
    if "ids" in columns:
        assert np.asarray(columns["ids"][:]).tolist() == IDS.tolist()
    assert "other" not in columns


def test_scattered_rows_are_read_in_slices_of_bounded_size(monkeypatch):
    read = []

    class Counted(Sliced):
        def _read(self, start, stop):
            read.append(stop - start)
            return super()._read(start, stop)

    monkeypatch.setattr("fkjax.data.columns._SPAN", 5 * FEATURES[0].nbytes)
    ids = np.array([28, 3, 4, 4, 11, 0, 14])
    found = take_rows(Counted(FEATURES), ids)
    np.testing.assert_array_equal(found, FEATURES[ids])
    assert read == [5, 4, 1]  # rows 0 - 4, 11 - 14 and 28


@pytest.mark.parametrize("write", WRITERS)
def test_a_slice_past_the_end_has_the_rows_that_there_are(write, tmp_path):
    features = read_columns(write(tmp_path))["features"]
    for rows in (slice(1000), slice(28, 1000), slice(None)):
        np.testing.assert_array_equal(np.asarray(features[rows]), FEATURES[rows])


@pytest.mark.parametrize("write", [write_npy, write_npz])
def test_numpys_files_are_mapped_not_read(write, tmp_path):
    assert isinstance(read_columns(write(tmp_path))["features"], np.memmap)


def test_an_array_in_fortran_order_is_mapped_as_it_is(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.asfortranarray(FEATURES))
    features = read_columns(tmp_path / "a.npz")["features"]
    np.testing.assert_array_equal(features, FEATURES)


def test_a_npy_is_named_by_its_end_or_before_an_equals_sign(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    path = f"{tmp_path}/a.npy"
    assert list(read_columns(f"features={path}")) == ["features"]
    with pytest.raises(UserError, match="needs the name of its array"):
        read_columns(path)
    np.savez(tmp_path / "a.npz", features=FEATURES)
    with pytest.raises(UserError, match="leave out features="):
        read_columns(f"features={tmp_path}/a.npz")


def refused(paths, match):
    with pytest.raises(UserError, match=match) as caught:
        read_columns(paths)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_go_together(tmp_path):
    np.savez(tmp_path / "a.npz", features=FEATURES)
    np.savez(tmp_path / "b.npz", logits=LOGITS[:5])
    np.savez(tmp_path / "c.npz", x=LOGITS)
    np.savez(tmp_path / "d.npz", features=np.float32(1))
    refused([tmp_path / "a.npz", tmp_path / "a.npz"], "but a previous file does, too")
    refused([tmp_path / "a.npz", tmp_path / "b.npz"], r"features 30, logits 5")
    refused(tmp_path / "c.npz", "none of the arrays features")
    refused(tmp_path / "d.npz", "one row for each example, got one number")
    refused(tmp_path / "a.txt", "none of the endings .npz, .npy")
    refused(tmp_path / "none.npz", "could not be read")
    refused(tmp_path, "different names, such as a.npz and b.npz, .*; give one file")


def test_python_objects_are_not_read(tmp_path):
    objects = np.array([{"a": 1}, {}], object)
    np.savez(tmp_path / "a.npz", features=objects)
    np.save(tmp_path / "features.npy", objects)
    refused(tmp_path / "a.npz", "objects.*features.astype")
    refused(tmp_path / "features.npy", "objects.*features.astype")


@pytest.mark.parametrize("name", ["ids", "features"])
def test_object_arrays_are_named_as_such_with_the_conversion(name, tmp_path):
    objects = np.array(["a", "b"], object)
    np.savez(tmp_path / "a.npz", **{name: objects})
    np.savez_compressed(tmp_path / "b.npz", **{name: objects})
    np.save(tmp_path / f"{name}.npy", objects)
    kind = "str" if name == "ids" else "np.float32"
    for file in ("a.npz", "b.npz", f"{name}.npy"):
        refused(
            tmp_path / file,
            rf"{name} in .*{file} is an array of Python objects, .*; save "
            rf"{name}.astype\({kind}\)$",
        )


def write_tensors(folder, **arrays):
    path = folder / "pool.safetensors"
    safetensors.numpy.save_file(arrays, path)
    return path


def test_bfloat16_is_read_as_float32(tmp_path):
    half = FEATURES.astype(jnp.bfloat16)
    expected = half.astype(np.float32)
    np.savez(tmp_path / "a.npz", features=half)
    np.savez_compressed(tmp_path / "b.npz", features=half)
    np.save(tmp_path / "features.npy", half)
    tensors = write_tensors(tmp_path, features=half)
    for file in ("a.npz", "b.npz", "features.npy", tensors):
        column = read_columns(tmp_path / file)["features"]
        for ids in (np.arange(30), np.array([7, 2])):
            found = take_rows(column, ids)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected[ids])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F8_E4M3", jnp.float8_e4m3fn), ("F8_E5M2", jnp.float8_e5m2)],
)
def test_float8_is_read_as_float32(kind, dtype, tmp_path):
    rows = FEATURES.astype(dtype)
    shown = {"x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    shown["features"] = {"dtype": kind, "shape": [30, 4], "data_offsets": [3, 123]}
    header = json.dumps(shown).encode()
    path = tmp_path / "pool.safetensors"
    path.write_bytes(
        len(header).to_bytes(8, "little") + header + b"abc" + rows.tobytes()
    )
    column = read_columns(path)["features"]
    found = take_rows(column, np.array([0, 29, 3]))
    np.testing.assert_array_equal(found, rows[[0, 29, 3]].astype(np.float32))
    np.save(tmp_path / "features.npy", rows)
    refused(tmp_path / "features.npy", "such as float8; save features.ast")
    np.savez(tmp_path / "a.npz", features=rows)
    refused(tmp_path / "a.npz", "such as float8; save features.ast")


def test_arrays_of_no_use_are_left_out(tmp_path):
    objects = np.array([None, {}], object)
    tensors = write_tensors(
        tmp_path, features=FEATURES, logit_scale=np.array(100.0), x=np.zeros((0, 3))
    )
    np.savez(tmp_path / "a.npz", features=FEATURES, labels=objects, x=objects)
    np.savez(tmp_path / "b.npz", features=FEATURES, labels=None, images=np.ones(2))
    for path in (tensors, tmp_path / "a.npz", tmp_path / "b.npz"):
        table = as_table(path, needed=["features"], what="pool")
        assert list(table.columns) == ["features"] and len(table) == 30
    assert list(read_columns(tensors)) == ["features"]
    given = {"features": FEATURES, "labels": objects, "images": None}
    table = as_table(given, needed=["features"], what="pool")
    assert list(table.columns) == ["features"]
    refused(write_tensors(tmp_path, features=np.array(1.0)), "got one number")


def test_an_array_without_rows_is_not_called_damaged(tmp_path):
    np.savez(tmp_path / "a.npz", features=FEATURES[:0])
    tensors = write_tensors(tmp_path, features=FEATURES[:0])
    for path in (tensors, tmp_path / "a.npz"):
        assert read_columns(path)["features"].shape == (0, 4)


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="features of the pool could not be converted"):
        as_table({"features": [[1, 2], [3]]}, needed=["features"], what="pool")


@pytest.mark.parametrize("write", WRITERS[1:])
@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_are_refused_or_read_to_what_they_hold(write, seed, tmp_path):
    path = write(tmp_path)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if seed % 2:
        data = data[: rng.integers(len(data))]
    else:
        for at in rng.integers(0, min(len(data), 400), 5):
            data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
        columns = read_columns(path)
        for column in columns.values():
            take_rows(column, np.arange(min(3, len(column))))
    except UserError as error:
        assert "\n" not in str(error)


def test_empty_cells_and_lists_of_other_lengths_are_refused(tmp_path):
    for cells, what in (
        ([[1.0, 2.0], None], "empty cells"),
        ([[1.0, 2.0], [1.0]], "the same length"),
        ([[1.0, 2.0], [1.0, None]], "the same length"),
        ([[1.0, 2.0, 3.0], [1.0]], "the same length"),
    ):
        table = pyarrow.table({"features": pyarrow.array(cells)})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        refused(tmp_path / "a.parquet", what)


def test_what_is_needed_is_asked_for():
    with pytest.raises(UserError, match="the pool must have logits, got features"):
        as_table({"features": FEATURES}, needed=["features", "logits"], what="pool")


def test_a_table_is_of_arrays_with_ids_or_positions():
    table = as_table({"labels": [1, 2], "other": [3]}, needed=["labels"], what="pool")
    assert isinstance(table["labels"], np.ndarray) and list(table.columns) == ["labels"]
    assert table.ids == range(2) and len(table) == 2
    named = as_table(
        {"labels": [1, 2], "ids": ["a", "b"]}, needed=["labels"], what="pool"
    )
    assert named.ids.tolist() == ["a", "b"] and len(named) == 2


@pytest.mark.parametrize("write", WRITERS)
def test_a_table_is_made_of_each_kind_of_file(write, tmp_path):
    table = as_table(write(tmp_path), needed=["features"], what="pool")
    assert len(table) == 30
    if "ids" in table.columns:
        assert table.ids.tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"features": FEATURES, "ids": IDS[:5]}, "same length, got features 30, ids"),
        ({"features": FEATURES, "ids": FEATURES}, r"one for each .*\(30, 4\)"),
        ({"features": np.float32(1)}, "features of the pool must .* got one number"),
    ],
)
def test_a_table_of_arrays_that_do_not_fit_is_refused(arrays, match):
    with pytest.raises(UserError, match=match):
        as_table(arrays, needed=["features"], what="pool")


@pytest.mark.parametrize("write", WRITERS)
def test_columns_of_files_are_given_as_arrays(write, tmp_path):
    columns = read_columns(write(tmp_path))
    table = as_table(columns, needed=["features"], what="pool")
    assert table["features"] is columns["features"]


def test_masked_values_are_refused():
    features = np.ma.masked_array(FEATURES, FEATURES > 1)
    with pytest.raises(UserError, match="^features of the pool has masked values"):
        as_table({"features": features}, needed=["features"], what="pool")
    whole = {"features": np.ma.masked_array(FEATURES, False)}
    table = as_table(whole, needed=["features"], what="pool")
    np.testing.assert_array_equal(table["features"], FEATURES)


def test_an_opened_npz_file_is_a_mapping_of_arrays(tmp_path):
    with np.load(write_npz(tmp_path), allow_pickle=False) as given:
        table = as_table(given, needed=["features"], what="pool")
    assert table.ids.tolist() == IDS.tolist()
    np.savez(tmp_path / "a.npz", features=FEATURES, ids=IDS.astype(object))
    with (
        np.load(tmp_path / "a.npz", allow_pickle=False) as given,
        pytest.raises(UserError, match=r"Object arrays .*; give ids.astype\(str\)"),
    ):
        as_table(given, needed=["features"], what="pool")


@pytest.mark.parametrize("given", [None, 5, FEATURES, (FEATURES, LOGITS), [None]])
def test_what_is_neither_arrays_nor_files_is_refused(given):
    with pytest.raises(UserError, match="the pool must be a dict of arrays, or paths"):
        as_table(given, needed=["features"], what="pool")
