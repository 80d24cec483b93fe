import io
import os

import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.files.opening import (
    exists,
    open_file,
    read_bytes,
    read_if_exists,
    read_into,
    takes_too_much,
)

U1, F8 = np.dtype(np.uint8), np.dtype(float)


def test_a_file_is_opened_and_a_link_to_it(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    for name in "ab":
        with open_file(tmp_path / name) as file:
            assert file.read() == b"abc"


def pipe(path):
    os.mkfifo(path)


def nothing(path):
    pass


@pytest.mark.parametrize(
    "make",
    [
        pipe,
        nothing,
        os.mkdir,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
    ],
    ids=["pipe", "nothing", "folder", "device", "loop"],
)
def test_what_is_no_file_is_neither_opened_nor_waited_for(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(OSError):
        open_file(tmp_path / "a")


def test_a_file_is_read_whole_up_to_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_bytes(path) == read_bytes(path, 3) == read_if_exists(path) == b"abc"
    for read in (read_bytes, read_if_exists):
        with pytest.raises(UserError, match="a has more than 2 bytes"):
            read(path, 2)


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "a"
    assert not exists(path) and read_if_exists(path) is None
    with pytest.raises(UserError, match="a: No such file"):
        read_bytes(path)


@pytest.mark.parametrize("make", [pipe, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_a_user_error(tmp_path, make):
    make(tmp_path / "a")
    assert exists(tmp_path / "a")
    for read in (read_bytes, read_if_exists):
        with pytest.raises(UserError, match="read .*a: "):
            read(tmp_path / "a")


def test_a_name_that_no_file_can_have_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="aa: File name too long"):
        exists(tmp_path / ("a" * 300))


@pytest.mark.parametrize("dtype", [U1, F8])
@pytest.mark.parametrize("size", [0, 1, 7, (1 << 18) + 3])
def test_arrays_are_filled_as_far_as_the_file_goes(dtype, size):
    data = np.random.default_rng(0).integers(0, 99, size).astype(dtype).tobytes()
    array = np.zeros(size, dtype)
    assert read_into(io.BytesIO(data + b"more"), array) == len(data)
    assert array.tobytes() == data
    assert read_into(io.BytesIO(data[:-1]), array) == max(0, len(data) - 1)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((4, 1 << 30), U1, False),
        ((4, 1 << 30, 2), U1, True),
        ((1 << 29,), F8, False),
        ((1 << 29, 2), F8, True),
        ((0, 1 << 40), U1, True),  # NumPy reports that it is too big
        ((0, 3), U1, False),
        ((), U1, False),
    ],
)
def test_what_takes_too_much_memory(shape, dtype, expected):
    assert takes_too_much(shape, dtype) == expected
