"""Exact copies among examples or files, found by hashes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from fkjax.base import Examples, UserError
from fkjax.files.opening import open_file
from fkjax.parallel.examples import Streamed

_CHUNK = 1 << 24  # bytes that are read and hashed at a time


def first_equal(*sets: Examples) -> np.ndarray:
    """Returns the position of the first example that is equal to each one.

    Examples are equal if all their bytes are; an example with NaN or infinity is equal
    to itself only. All rows are read once and hashed to 64 bits. Rows whose hashes
    occur twice are read again and compared by 128 bits of BLAKE2b, so that different
    examples are never taken for copies.

    >>> first_equal(np.array([[1.0], [2.0], [1.0]]), np.array([[2.0]])).tolist()
    [0, 1, 0, 1]

    Args:
        *sets: sets of examples of one shape, of n examples in total. Shapes [N, ...].

    Returns:
        The positions, where the examples of a set follow those of the set before.
        Shape [n].
    """
    dtypes = [cast(Any, examples).dtype for examples in sets]
    dtype = np.result_type(*dtypes)
    hashes = np.concatenate([_hashes(examples, dtype) for examples in sets])
    first = np.arange(len(hashes))
    candidates = np.flatnonzero(_occur_twice(hashes))
    digests, start = [], 0
    for examples in sets:
        end = start + len(examples)
        own = candidates[(candidates >= start) & (candidates < end)] - start
        digests.append(_digests(examples, own, dtype, salt=len(digests)))
        start = end
    return _with_groups(first, candidates, np.concatenate(digests))


def first_equal_files(paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """Returns the position of the first file with the same bytes as each file.

    Only files whose size occurs twice are read.

    Args:
        paths: paths of the files. Length n.

    Returns:
        The positions. Shape [n].

    Raises:
        UserError: if a file cannot be read.
    """
    path: str | os.PathLike[str] = ""
    try:
        sizes = []
        for path in paths:
            sizes.append(os.stat(path).st_size)
        candidates = np.flatnonzero(_occur_twice(np.array(sizes, np.uint64)))
        digests = np.zeros((len(candidates), 2), np.uint64)
        for i, position in enumerate(candidates.tolist()):
            path, sha = paths[position], hashlib.blake2b(digest_size=16)
            with open_file(Path(path)) as file:
                while part := file.read(_CHUNK):
                    sha.update(part)
            digests[i] = np.frombuffer(sha.digest(), np.uint64)
    except OSError as error:
        raise UserError(
            f"{os.fspath(path)} could not be read ({error.strerror or error}); fix it"
        ) from error
    return _with_groups(np.arange(len(paths)), candidates, digests)


def _with_groups(
    first: np.ndarray, candidates: np.ndarray, digests: np.ndarray
) -> np.ndarray:
    """Replaces the positions of candidates by the first with the same digest."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the lowest is first
    is_new = np.ones(len(order), bool)
    is_new[1:] = (digests[order][1:] != digests[order][:-1]).any(axis=1)
    starts = candidates[order[is_new]]
    first[candidates[order]] = starts[np.cumsum(is_new) - 1]
    return first


def _occur_twice(values: np.ndarray) -> np.ndarray:
    """Returns whether each value occurs more than once. Shape [n] bool."""
    order = np.argsort(values)
    is_next = values[order][1:] == values[order][:-1]
    twice = np.zeros(len(values), bool)
    twice[order[1:][is_next]] = twice[order[:-1][is_next]] = True
    return twice


def _hashes(examples: Examples, dtype: Any) -> np.ndarray:
    """Computes sum_j a_j x_j mod 2^64 over the 32-bit words x_j. Shape [N] uint64.

    The a_j are fixed, random and odd (multilinear hashing).
    """
    hashes = np.empty(len(examples), np.uint64)
    factors = np.zeros(0, np.uint64)
    for at, rows in _chunks(examples, dtype):
        data = _bytes(rows)
        if data.shape[1] % 4:
            data = np.pad(data, ((0, 0), (0, -data.shape[1] % 4)))
        words = data.shape[1] // 4
        if len(factors) != words:
            draws = np.random.default_rng(0)
            factors = draws.integers(0, 1 << 63, words, np.uint64) * 2 + 1
        np.einsum(
            "ij,j->i", data.view(np.uint32), factors, out=hashes[at : at + len(rows)]
        )
    return hashes


def _digests(
    examples: Examples, positions: np.ndarray, dtype: Any, *, salt: int
) -> np.ndarray:
    """Computes the BLAKE2b of some examples, 128 bits each. Shape [n, 2] uint64.

    That of an example with NaN or infinity also depends on its position and the salt.
    """
    digests = np.empty((len(positions), 2), np.uint64)
    for at, rows in _chunks(examples, dtype, positions):
        lowest, end = np.searchsorted(positions, (at, at + len(rows)))
        chosen = rows[positions[lowest:end] - at]
        is_finite = [bool(np.isfinite(row).all()) for row in chosen]
        for i, data in enumerate(_bytes(chosen), start=int(lowest)):
            sha = hashlib.blake2b(data, digest_size=16)
            if not is_finite[i - lowest]:
                sha.update(b"example %d of set %d" % (positions[i], salt))
            digests[i] = np.frombuffer(sha.digest(), np.uint64)
    return digests


def _bytes(rows: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return flat.view(np.uint8).reshape(len(rows), -1)


def _chunks(
    examples: Examples, dtype: Any, positions: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields parts of a set with their starts; only those with some positions."""
    num = len(examples)
    size = int(np.prod(examples.shape[1:])) * np.dtype(dtype).itemsize
    step = max(1, _CHUNK // max(1, size))
    starts = np.arange(0, num, step)
    if positions is not None:
        starts = np.unique(positions // step) * step
    values: Any = examples
    if not isinstance(examples, Streamed):
        values = np.asarray(values)
    for i, at in enumerate(starts.tolist()):
        if isinstance(examples, Streamed):
            then = [np.asarray(examples.ids[s : s + step]) for s in starts[i + 1 :][:1]]
            rows = examples.source.read(
                np.asarray(examples.ids[at : at + step]),
                then[0] if then else np.zeros(0, np.int32),
            )
        else:
            rows = values[at : at + step]
        yield at, rows.astype(dtype, copy=False)
