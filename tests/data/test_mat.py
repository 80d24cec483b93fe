"""MATLAB 5 files, written by SciPy and byte by byte."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fkjax.data.mat import MatError, read_mat
from fkjax.files import opening as files

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def saved(variables, **options):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, **options)
    return file.getvalue()


def element(kind, data):
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(name, shape, data, *, kind=2, array_class=9, num_bytes=None):
    """Returns a variable whose header may be wrong."""
    body = element(6, struct.pack("<2I", array_class, 0))
    body += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    body += struct.pack("<2I", kind, len(data) if num_bytes is None else num_bytes)
    return element(14, body + data + bytes(-len(data) % 8))


def compressed(matrix):
    data = zlib.compress(matrix)
    return struct.pack("<2I", 15, len(data)) + data


@pytest.fixture
def read(tmp_path):
    def read(data, names=("X",)):
        (tmp_path / "a.mat").write_bytes(data)
        return read_mat(tmp_path / "a.mat", names)

    return read


@given(
    array=arrays.arrays(
        st.sampled_from([np.uint8, np.float64]),
        arrays.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4),
    ),
    do_compression=st.booleans(),
)
@settings(deadline=None)
def test_what_scipy_writes_comes_back(tmp_path_factory, array, do_compression):
    path = tmp_path_factory.getbasetemp() / "any.mat"
    other = np.array([["a", 1j]], object)
    variables = {"other": other, "X": array, "last": other}
    scipy.io.savemat(path, variables, do_compression=do_compression)
    (got,) = read_mat(path, ["X", "absent"]).values()
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_doubles_may_be_stored_as_smaller_integers(read):
    # As written by MATLAB. Up to four bytes can be stored in the tag.
    data = bytes([1, 2, 3, 10])
    tiny = matrix(b"X", (4, 1), b"", array_class=6)[8:-8] + struct.pack("<2H", 2, 4)
    tiny = element(14, tiny + data)
    for file in (matrix(b"X", (4, 1), data, array_class=6), tiny):
        for packed in (file, compressed(file)):
            got = read(HEADER + packed)["X"]
            assert got.dtype == np.float64
            assert got.tolist() == [[1], [2], [3], [10]]


def test_the_first_of_a_name_counts_and_nothing_after_it_is_read(read):
    first, second = matrix(b"X", (2, 1), b"ab"), matrix(b"X", (1, 1), b"c")
    got = read(HEADER + compressed(first) + second + b"rubbish")
    assert got["X"].tolist() == [[97], [98]]


SMALL = matrix(b"X", (2, 1), b"ab")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header"),
        (saved({"X": np.ones((2, 2))}, format="4"), "header"),
        # A negative size, for which SciPy's reader of MATLAB 4 does not terminate.
        (struct.pack("<5i", 50, -22, 1, 0, 2) + b"X\0" + bytes(200), "header"),
        (HEADER + bytes(8), "type 0"),
        (HEADER + b"abc", "ends too early"),
        (HEADER + SMALL[:60], "ends too early"),
        (HEADER + SMALL[:-8], "0 of 2 bytes"),
        (HEADER + element(15, b"no zlib at all"), "Error -3"),
        (HEADER + compressed(b"no variable"), "is not a variable"),
        (HEADER + compressed(SMALL)[:-5], "end where it should"),
        (HEADER + matrix(b"X", (2, -1), b"ab"), "shape"),
        (HEADER + matrix(b"X", (0, 2**31 - 1, 2**31 - 1), b""), "shape"),
        (HEADER + matrix(b"X", (2**31 - 1, 2**31 - 1), b"ab"), "shape"),
        (HEADER + matrix(b"X", (), b""), "shape"),
        (HEADER + matrix(b"X", (1,) * 33, b"a"), "at most 128 bytes declares 132"),
        (HEADER + matrix(b"X" * 257, (1, 1), b"a"), "at most 256 bytes"),
        (HEADER + matrix(b"X", (3, 1), b"ab"), "has 2 bytes of type 2"),
        (HEADER + matrix(b"X", (3, 1), b"ab", num_bytes=3), None),
        (HEADER + matrix(b"X", (9, 1), b"ab", num_bytes=9), "8 of 9 bytes"),
        (HEADER + matrix(b"X", (2, 1), b"ab", kind=99), "type 99"),
        (HEADER + element(14, element(6, b"abcd") + element(5, b"a" * 8)), "truncated"),
        (
            HEADER + element(14, element(6, b"a" * 8) + element(5, b"abcde")),
            "truncated",
        ),
        (HEADER + matrix(b"X", (2, 1), b"ab", array_class=200), "not a real array"),
        (HEADER + matrix(b"X", (2, 1), b"ab", array_class=0x809), "not a real array"),
    ],
)
def test_what_is_damaged_is_refused(read, data, message):
    if message is None:  # the padding is read as data
        assert read(data)["X"].tolist() == [[97], [98], [0]]
        return
    with pytest.raises((MatError, zlib.error), match=message):
        read(data)


def test_no_more_is_inflated_than_the_shape_says(read):
    """Two bytes are followed by many zeros, which must not be decompressed."""
    packer = zlib.compressobj(1)
    data = packer.compress(SMALL[:-6]) + packer.compress(bytes(64 << 20))
    with pytest.raises(MatError, match="end where it should"):
        read(HEADER + struct.pack("<2I", 15, len(data)) + data)


def test_what_takes_too_much_memory_is_refused_by_its_class(read, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    assert read(HEADER + matrix(b"X", (100, 1), bytes(100)))["X"].shape == (100, 1)
    with pytest.raises(MatError, match="takes more than"):
        read(HEADER + matrix(b"X", (13, 1), bytes(13), array_class=6))
