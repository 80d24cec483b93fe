"""Tables of other libraries, and arrays and groups of HDF5 and Zarr."""

import json
import sys
import warnings

import h5py
import ml_dtypes
import numpy as np
import pyarrow
import pytest

from fkjax.base import UserError
from fkjax.data.column_files import as_table, read_columns
from fkjax.data.columns import Sliced, take_rows

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(30, 4)).astype(np.float32)
LABELS = RNG.integers(0, 3, 30)
IDS = [f"ü{i}" for i in range(30)]
LISTS = {"features": FEATURES.tolist(), "labels": LABELS.tolist(), "ids": IDS}


def hdf5(folder):
    file = h5py.File(folder / "a.h5", "w")
    file["features"] = FEATURES
    file.create_dataset("labels", data=LABELS, chunks=(7,), compression="gzip")
    file["ids"] = IDS
    file["logits"] = FEATURES.astype(ml_dtypes.bfloat16)
    file.create_group("images")
    return file


def zarr_group(folder, version=3):
    zarr = pytest.importorskip("zarr", reason="needs zarr")
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the type of text is not in Zarr's standard
        for name, array in (("features", FEATURES), ("labels", LABELS)):
            group.create_array(name, data=array, chunks=(7, *array.shape[1:]))
        group.create_array("ids", data=np.array(IDS), chunks=(7,))
    return group


def arrow(folder):
    del folder
    ids = pyarrow.array(IDS).dictionary_encode()
    features = pyarrow.array(LISTS["features"])
    chunks = pyarrow.chunked_array([features[:5], features[5:5], features[5:]])
    return pyarrow.table(LISTS | {"features": chunks, "ids": ids})


def frame(folder):
    """Makes a table with the methods of pandas that are used."""
    del folder

    class Series:
        def __init__(self, values):
            self.shape, self.dtype, self.values = (30,), np.dtype(object), values

        def to_numpy(self):
            return self.__array__()

        def __array__(self, dtype=None, copy=None):
            made = np.empty(30, object)
            made[:] = self.values
            return made

        def __getitem__(self, rows):
            raise AssertionError("not by position")

    class Frame:
        def keys(self):
            return LISTS.keys()

        def __getitem__(self, name):
            return Series(LISTS[name])

    return Frame()


def pandas(folder):
    del folder
    return pytest.importorskip("pandas", reason="needs pandas").DataFrame(LISTS)


def polars(folder):
    del folder
    return pytest.importorskip("polars", reason="needs polars").DataFrame(LISTS)


def hugging_face(folder):
    del folder
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    reverse = {name: rows[::-1] for name, rows in LISTS.items()}
    return datasets.Dataset.from_dict(reverse).select(range(29, -1, -1))


def opened_zarr_2(folder):
    return zarr_group(folder, version=2)


TABLES = [
    *(hdf5, zarr_group, opened_zarr_2),
    *(arrow, frame, pandas, polars, hugging_face),
]


@pytest.mark.parametrize("make", TABLES)
def test_tables_of_each_library_are_read_as_their_lists(make, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about themselves
        given = make(tmp_path)
        table = as_table(given, needed=["features", "labels"], what="pool")
    assert table["features"].shape == (30, 4)
    for ids in (range(30), [3, 28, 3], [29], []):
        rows = take_rows(table["features"], np.array(ids, int))
        np.testing.assert_allclose(rows, FEATURES[np.array(ids, int)])
    assert table["labels"].tolist() == LABELS.tolist()
    assert table.ids.tolist() == IDS
    with pytest.raises(UserError, match="the pool must have proba"):
        as_table(given, needed=["probabilities"], what="pool")


def test_a_column_that_a_library_cannot_read_is_refused():
    class Dataset:
        column_names = ("features",)

        def __len__(self):
            return 3

        def with_format(self, kind):
            return self

        select_columns = with_format

        def __getitem__(self, rows):
            raise RuntimeError("lost")

    with pytest.raises(
        UserError, match=r"features could not be read from row 0 \(lost"
    ):
        as_table(Dataset(), needed=["features"], what="pool")


@pytest.mark.parametrize("write", [hdf5, zarr_group, opened_zarr_2])
def test_files_of_hdf5_and_zarr_are_read_in_parts(write, tmp_path):
    written = write(tmp_path)
    path = tmp_path / ("a.h5" if write is hdf5 else "a.zarr")
    if write is hdf5:
        del written["images"]
        written.close()
    columns = read_columns(path)
    assert isinstance(columns["features"], Sliced)
    if write is hdf5:
        rows = take_rows(columns["logits"], np.arange(3, 5))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, FEATURES[3:5], rtol=1e-2)
    for rows in (slice(1000), slice(28, 1000), slice(None), slice(3, 3)):
        np.testing.assert_array_equal(columns["features"][rows], FEATURES[rows])
    table = as_table(path, needed=["features"], what="pool")
    assert table.ids.tolist() == IDS and "labels" not in table.columns


def test_an_array_of_zarr_is_named_as_npy_files_are(tmp_path):
    zarr = pytest.importorskip("zarr", reason="needs zarr")
    zarr.save_array(tmp_path / "pool_features.zarr", FEATURES)
    found = read_columns(tmp_path / "pool_features.zarr")["features"]
    np.testing.assert_array_equal(found[:], FEATURES)
    found = read_columns(f"features={tmp_path}/pool_features.zarr")["features"]
    np.testing.assert_array_equal(found[:], FEATURES)


def test_arrays_of_hdf5_that_are_not_in_the_file_are_refused(tmp_path):
    with hdf5(tmp_path) as file:
        other = tmp_path / "b.h5"
        with h5py.File(other, "w") as made:
            made["features"] = h5py.ExternalLink("a.h5", "/features")
            made["logits"] = h5py.Empty("f")
    for name, match in (
        ("features", "b.h5: features is a link to a.h5; give that file"),
        ("logits", "b.h5: logits is not an array; write one at the top"),
    ):
        with pytest.raises(UserError, match=match):
            as_table(other, needed=[name], what="pool")
    with pytest.raises(UserError, match="a.h5: images is not an array"):
        as_table(tmp_path / "a.h5", needed=["images"], what="pool")
    del file


@pytest.mark.parametrize(
    "steps",
    [
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "delta", "dtype": "<f4"}, {"id": "pickle"}]},
        {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dtype": "|O"},
        {"filters": [{"id": "pickle"}], "dtype": "|O"},
        {"compressor": {"id": "pickle"}},
    ],
)
def test_zarr_does_not_unpickle(steps, tmp_path):
    zarr = pytest.importorskip("zarr", reason="needs zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("features", data=FEATURES)
    about = tmp_path / "a.zarr" / "features" / ".zarray"
    about.write_text(json.dumps(json.loads(about.read_text()) | steps))
    with pytest.raises(UserError, match="a.zarr.*pickle"):
        read_columns(tmp_path / "a.zarr")


@pytest.mark.parametrize("suffix", ["h5", "arrow", "zarr"])
def test_damaged_files_are_refused_in_a_sentence(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix == "zarr":
        path.mkdir()
        (path / "zarr.json").write_text("{}")
    else:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match=f"a.{suffix} ") as caught:
        read_columns(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("library", "path", "extra"),
    [("h5py", "a.h5", "hdf5"), ("zarr", "a.zarr", "zarr"), ("pyarrow", "b.arrow", "a")],
)
def test_a_library_that_is_missing_is_named(
    library, path, extra, tmp_path, monkeypatch
):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zgroup").write_text("{}")
    (tmp_path / "a.h5").write_text("")
    (tmp_path / "b.arrow").write_text("")
    monkeypatch.setitem(sys.modules, library, None)
    match = rf"needs {library}; run pip install 'fkjax\[{extra}"
    with pytest.raises(UserError, match=match):
        read_columns(tmp_path / path)


def test_an_array_with_slices_is_read_when_it_is_used():
    class Remote:
        """An array that a library loads in parts, such as one of Dask."""

        shape, dtype = FEATURES.shape, FEATURES.dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice) and rows.stop - rows.start <= 5
            return FEATURES[rows]

    table = as_table({"features": Remote()}, needed=["features"], what="pool")
    found = take_rows(table["features"], np.arange(20, 25))
    np.testing.assert_array_equal(found, FEATURES[20:25])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_tensors_of_pytorch_are_taken_as_they_are(dtype):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    features = torch.tensor(FEATURES, dtype=getattr(torch, dtype), requires_grad=True)
    given = {"features": features, "labels": torch.tensor(LABELS), "ids": IDS}
    table = as_table(given, needed=["features", "labels"], what="pool")
    np.testing.assert_allclose(table["features"], FEATURES, rtol=1e-2)
    assert table["labels"].tolist() == LABELS.tolist()
    given["features"] = features.detach().to_sparse()
    table = as_table(given, needed=["features"], what="pool")
    np.testing.assert_allclose(table["features"], FEATURES, rtol=1e-2)
    given["features"] = features.to("meta")
    with pytest.raises(UserError, match="the device meta has no numbers"):
        as_table(given, needed=["features"], what="pool")
