"""Reading of streamed images in parallel, one batch ahead."""

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
from fkjax.data.decoding import combined
from fkjax.parallel.examples import Streamed, stream

ReadOne = Callable[[int], np.ndarray]
"""`read_one(id) -> image`: reads an image of shape [H, W, channels], uint8.

It is called from several threads, and raises a `UserError` if the image is damaged.
"""


def stream_in_parallel(
    read_one: ReadOne, num_images: int, image_shape: tuple[int, int, int]
) -> Streamed:
    """Returns streamed images that are read on all cores.

    No more than two batches are in memory: the requested batch, and the expected next
    batch, which is read during the computation with the former.

    Args:
        read_one: function that reads the image of an id.
        num_images: number of images, N. Their ids are 0 .. N-1.
        image_shape: shape of an image, (H, W, channels).

    Returns:
        The images. Shape [N, H, W, channels].
    """
    return stream(_Reader(read_one, image_shape), num_images, image_shape)


@contextlib.contextmanager
def plain_errors(*images: Any) -> Iterator[None]:
    """Raises errors of reading streamed images as they are, without JAX's wrapper.

    In this context, JAX does not log such errors, and warnings of Pillow are not
    printed: they are raised as errors or do not matter.

    Args:
        *images: sets of images, streamed or not.
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
    """A batch of images that is being read."""

    ids: np.ndarray  # Ids of the images. Shape [B].
    distinct: np.ndarray  # Images of distinct ids. Shape [B', H, W, channels].
    futures: list[Future]  # Reading of these images. Length B'.
    where: np.ndarray  # Positions of the ids in `distinct`. Shape [B].

    def wait(self) -> np.ndarray:
        errors: list[UserError] = []
        try:
            for future in self.futures:
                try:
                    future.result()
                except UserError as error:
                    errors.append(error)
        except BaseException:
            self.cancel()
            raise
        if errors:
            raise combined(errors)
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
        # One call at a time, so that no more than two batches are in memory.
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
        # A batch may be padded with copies of one example, which is read only once.
        distinct, where = np.unique(ids, return_inverse=True)
        images = np.empty((len(distinct), *self._image_shape), np.uint8)

        def read(place: int) -> None:
            images[place] = self._read_one(int(distinct[place]))

        futures = [self._threads.submit(read, i) for i in range(len(distinct))]
        return _Batch(ids, images, futures, where)
