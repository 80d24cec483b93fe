"""Exact copies in memory, streamed and as files."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkjax.base import UserError
from fkjax.data import copies
from fkjax.data.copies import first_equal, first_equal_files
from fkjax.parallel.examples import stream


def expected(rows):
    """Compares the bytes of all rows; a row with NaN or infinity has no copy."""
    seen, first = {}, []
    for i, row in enumerate(rows):
        key = row.tobytes() if np.isfinite(row).all() else i
        first.append(seen.setdefault(key, i))
    return first


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 8]))
def test_agrees_with_the_bytes_of_all_rows(dtype, seed, width):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, (40, width, 1, 1)).astype(dtype)
    if dtype == np.float32:
        rows[rng.integers(0, 40, 3)] *= -1  # -0.0 has other bytes than 0.0
        rows[rng.integers(0, 40, 4), 0] = np.nan
    assert first_equal(rows).tolist() == expected(rows)
    assert first_equal(jnp.asarray(rows[:25]), rows[25:]).tolist() == expected(rows)


def test_streamed_rows_are_read_in_chunks_and_compared_across_sets(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (500, 1, 1, 8)).astype(np.float32)
    read = []

    def fetch(ids, then):
        read.append(ids)
        return rows[ids]

    monkeypatch.setattr(copies, "_CHUNK", 32 * 64)
    pool = stream(fetch, 500, (1, 1, 8), np.float32)
    chosen = pool[np.arange(499, -1, -1)]  # in another order than in the source
    found = first_equal(chosen, jnp.asarray(rows[:20]))
    assert found.tolist() == expected([*rows[::-1], *rows[:20]])
    assert max(map(len, read)) == 64 and sum(map(len, read)) == 1000
    read.clear()
    rows[:, 0, 0, 0] = np.arange(500)
    assert first_equal(pool).tolist() == list(range(500))
    assert sum(map(len, read)) == 500  # once, as no hash occurs twice


def test_rows_with_equal_hashes_that_differ_are_no_copies(monkeypatch):
    monkeypatch.setattr(copies, "_hashes", lambda e, _: np.zeros(len(e), np.uint64))
    rows = np.arange(6.0)[[0, 1, 2, 1, 4, 0], None]
    assert first_equal(rows).tolist() == [0, 1, 2, 1, 4, 0]


def test_files_with_the_same_bytes(tmp_path):
    contents = [b"a", b"b", b"a", b"long", b"b", b"", b""]
    paths = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert first_equal_files(paths).tolist() == [0, 1, 0, 3, 1, 5, 5]
    with pytest.raises(UserError, match="none.* could not be read"):
        first_equal_files([*paths, tmp_path / "none"])
