"""Reads streamed images in parallel, one batch ahead, and tells plainly what fails."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fkjax.base import UserError
from fkjax.parallel.examples import Streamed, stream

ReadOne = Callable[[int], np.ndarray]
"""`read_one(id) -> image`: uint8 of shape [H, W, channels], or a UserError. It is
called from several threads."""


def stream_in_parallel(
    read_one: ReadOne, num_images: int, image_shape: tuple[int, int, int]
) -> Streamed:
    """The images that `read_one` knows by 0 .. N-1, read on all cores.

    No more than two batches are held: the one that was asked for, and the one that is
    expected next, which is read while the first is computed with.
    """
    return stream(_Reader(read_one, image_shape), num_images, image_shape)


@contextlib.contextmanager
def plain_errors(*images: Any) -> Iterator[None]:
    """Within it, a reading error comes as itself, where JAX would wrap and log it.

    What Pillow warns of is left out: it is told as an error, or does not matter.

    Args:
        *images: sets of images, of which the streamed ones are meant.
    """
    sources = {part.source for part in images if isinstance(part, Streamed)}

    def is_unexpected(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (UserError, KeyboardInterrupt))

    logger = logging.getLogger("jax._src.callback")
    logger.addFilter(is_unexpected)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except jax.errors.JaxRuntimeError:
        for source in sources:
            failure, source.failure = source.failure, None
            if failure is not None:
                raise failure from None
        raise
    finally:
        logger.removeFilter(is_unexpected)


class _Batch(NamedTuple):
    """Images that are being read."""

    ids: np.ndarray  # Shape [B].
    distinct: np.ndarray  # of each distinct id. Shape [B', H, W, channels].
    futures: list[Future]  # Length B'.
    where: np.ndarray  # each id's place among the distinct. Shape [B].

    def wait(self) -> np.ndarray:
        try:
            for future in self.futures:
                future.result()
        except BaseException:
            self.cancel()
            raise
        return self.distinct[self.where]

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


class _Reader:
    """A `fkjax.parallel.examples.Fetch`."""

    def __init__(self, read_one: ReadOne, image_shape: tuple[int, int, int]):
        self._read_one, self._image_shape = read_one, image_shape
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1)
        self._ahead: _Batch | None = None
        self._lock = threading.Lock()

    def __call__(self, ids: np.ndarray, then: np.ndarray) -> np.ndarray:
        # One call at a time, or more than two batches might be in memory.
        with self._lock:
            batch, self._ahead = self._ahead, None
            if batch is None or not np.array_equal(batch.ids, ids):
                if batch is not None:
                    batch.cancel()
                batch = self._start(ids)
            images = batch.wait()
            if len(then):
                self._ahead = self._start(then)
            return images

    def _start(self, ids: np.ndarray) -> _Batch:
        # A batch may be filled up with one example, again and again: it is read once.
        distinct, where = np.unique(ids, return_inverse=True)
        images = np.empty((len(distinct), *self._image_shape), np.uint8)

        def read(place: int) -> None:
            images[place] = self._read_one(int(distinct[place]))

        futures = [self._threads.submit(read, i) for i in range(len(distinct))]
        return _Batch(ids, images, futures, where)
