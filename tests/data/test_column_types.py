"""Types of columns: text, half precision, Python objects and tensors."""

import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.data.column_types import as_array, as_text, is_number, plain, with_float32

HALF = [jnp.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.mark.parametrize("dtype", HALF)
def test_floats_that_numpy_lacks_are_numbers_and_become_float32(dtype):
    rows = np.array([[1.5, -2]], dtype)
    assert is_number(rows.dtype)
    found = with_float32(rows)
    assert found.dtype == np.float32 and found.tolist() == [[1.5, -2]]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, ">f4"])
def test_other_numbers_are_kept(dtype):
    rows = np.zeros((2, 3), dtype)
    assert is_number(rows.dtype) and with_float32(rows) is rows


@pytest.mark.parametrize("dtype", ["S3", "U3", "V2", bool, object, complex])
def test_other_types_are_not_numbers(dtype):
    assert not is_number(np.dtype(dtype))


def test_bytes_become_text():
    ids = np.array(["é1".encode(), b"b"])
    for given in (ids, ids.astype(object)):
        assert plain(given, "ids", "pool").tolist() == ["é1", "b"]
    assert plain(ids[:, None], "labels", "pool").shape == (2, 1)
    assert as_text("é".encode()) == "é" and as_text(3) == "3"


def test_bytes_in_another_encoding_are_refused():
    for dtype in ("S1", object):
        with pytest.raises(UserError, match=r"ids of the pool must be UTF-8 text"):
            plain(np.array(["é".encode("latin-1")], dtype), "ids", "pool")


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["a", "bc"], "U"), ([2, np.int64(3)], "i"), ([0.5, 1.5], "f")],
)
def test_objects_that_are_text_or_numbers_are_taken(values, kind):
    found = plain(np.array(values, object), "ids", "pool")
    assert found.dtype.kind == kind and found.tolist() == values


def test_text_of_variable_length_becomes_text_of_a_fixed_length():
    given = np.array([["a"], ["bcd"]], np.dtypes.StringDType())
    found = plain(given, "ids", "pool")
    assert found.dtype == "U3" and found.tolist() == [["a"], ["bcd"]]


def test_objects_that_can_be_ordered_are_kept_as_ids():
    ids = np.array([pathlib.Path("a"), pathlib.Path("b")], object)
    assert plain(ids, "ids", "pool") is ids


def test_objects_of_numbers_are_features():
    given = np.array([[1, 2.5], [True, np.float32(4)]], object)
    found = plain(given, "features", "pool")
    assert found.dtype == np.float64 and found.tolist() == [[1, 2.5], [1, 4]]


def vectors(*rows):
    made = np.empty(len(rows), object)
    made[:] = rows
    return made


@pytest.mark.parametrize("kind", [list, tuple, np.float32, jnp.asarray])
def test_a_column_of_lists_or_arrays_is_stacked(kind):
    given = vectors(kind([1.5, 2]), kind([3.0, 4]), kind([5, 6.0]))
    found = plain(given, "features", "pool")
    assert found.tolist() == [[1.5, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("name", "given", "match"),
    [
        ("ids", np.array([1, "a"], object), r"int and str; give ids.astype\(str\)"),
        ("ids", np.array([{}, {}], object), r"of type dict; give ids.astype\(str\)"),
        ("ids", np.array(["a", None], object), r"no value in row 1 \(None\)"),
        ("labels", np.array(["a", np.nan], object), r"no value in row 1 \(nan\)"),
        ("features", np.array([["a"]], object), r"of type str; give np.stack"),
        ("features", vectors([1], [2, 3]), r"got \(1,\) in row 0 and \(2,\) in row 1"),
        ("features", vectors([1], None), r"no list of numbers in row 1; fill it"),
        ("features", vectors([None], [None]), r"type NoneType; give np.stack"),
        ("ids", vectors(np.ones(2), np.ones(2)), r"type ndarray; give ids.astype"),
    ],
)
def test_other_objects_are_refused_with_the_conversion(name, given, match):
    with pytest.raises(UserError, match=match):
        plain(given, name, "pool")


class Tensor:
    """A tensor as PyTorch has it: NumPy cannot convert it as it is."""

    is_meta = False

    def __init__(self, rows, dtype="float32", has_gradient=False, is_on_gpu=False):
        self.rows, self.dtype = rows, dtype
        self.has_gradient, self.is_on_gpu = has_gradient, is_on_gpu

    def detach(self):
        return Tensor(self.rows, self.dtype, False, self.is_on_gpu)

    def cpu(self):
        if self.is_meta:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return Tensor(self.rows, self.dtype, self.has_gradient, False)

    def float(self):
        return Tensor(self.rows, "float32", self.has_gradient, self.is_on_gpu)

    def __array__(self, dtype=None, copy=None):
        if self.has_gradient:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        if self.is_on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.array(self.rows, self.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_tensors_of_pytorch_are_converted(dtype):
    found = as_array(Tensor([[1, 2]], dtype, has_gradient=True, is_on_gpu=True))
    assert found.tolist() == [[1, 2]]
    assert found.dtype == ("int64" if dtype == "int64" else "float32")


def test_a_tensor_without_numbers_is_refused():
    tensor = Tensor([[1.0]])
    tensor.is_meta = True
    with pytest.raises(UserError, match="the device meta has no numbers; give it on"):
        as_array(tensor)


def test_an_array_on_two_devices_is_converted():
    mesh = jax.make_mesh((len(jax.devices()),), ("examples",))
    sharding = jax.NamedSharding(mesh, jax.P("examples"))
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    np.testing.assert_array_equal(as_array(jax.device_put(rows, sharding)), rows)
