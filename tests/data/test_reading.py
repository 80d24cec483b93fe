import logging
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fkjax.base import UserError
from fkjax.data.reading import plain_errors, stream_in_parallel
from fkjax.parallel.examples import take
from fkjax.parallel.mapping import map_examples

SHAPE = (2, 2, 1)


class Disk:
    """A source whose image i is the number i, which records its calls."""

    def __init__(self, seconds=0.0):
        self.read, self.now, self.most = [], 0, 0
        self.seconds = seconds
        self.lock = threading.Lock()

    def __call__(self, i):
        with self.lock:
            self.read.append(i)
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        if i == 13:
            raise UserError("image 13 is damaged; replace it")
        if i == 14:
            raise ZeroDivisionError("a bug")
        return np.full(SHAPE, i, np.uint8)


@pytest.fixture
def disk():
    return Disk()


def numbers(images):
    return np.asarray(images)[:, 0, 0, 0].tolist()


def settle(disk, num_read, seconds=10.0):
    """Waits until `num_read` images are read, and asserts that no more are."""
    end = time.monotonic() + seconds
    while len(disk.read) < num_read and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(disk.read) == num_read


def test_images_come_in_the_order_asked_for(disk):
    images = stream_in_parallel(disk, 200, SHAPE)
    order = [5, 199, 0, 5, 7]
    assert numbers(take(images, jnp.array(order))) == order
    assert sorted(disk.read) == [0, 5, 7, 199]  # a repeated image is read once


def test_several_are_read_at_once(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    disk = Disk(seconds=0.1)
    take(stream_in_parallel(disk, 200, SHAPE), jnp.arange(9)).block_until_ready()
    assert disk.most == 3


def test_the_batch_that_comes_next_is_read_ahead_and_no_other(disk):
    images = stream_in_parallel(disk, 200, SHAPE)
    assert numbers(take(images, jnp.arange(5), jnp.arange(5, 8))) == [0, 1, 2, 3, 4]
    settle(disk, 8)  # read before it is requested
    assert numbers(take(images, jnp.arange(5, 8))) == [5, 6, 7]
    settle(disk, 8)  # and not read again
    take(images, jnp.arange(5, 8)).block_until_ready()
    settle(disk, 11)  # read again, since no batch is kept


def test_a_batch_read_ahead_in_vain_is_given_up(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    disk = Disk(seconds=0.05)
    images = stream_in_parallel(disk, 200, SHAPE)
    take(images, jnp.array([0]), jnp.arange(100, 150)).block_until_ready()
    assert numbers(take(images, jnp.array([7]))) == [7]
    assert len(disk.read) < 20


def test_mapping_reads_no_more_than_a_batch_twice(disk):
    images = stream_in_parallel(disk, 12, SHAPE)
    double = jax.jit(
        lambda images: map_examples(lambda x: x[0, 0, 0] * 2, images, batch_size=5)
    )
    assert double(images).tolist() == list(range(0, 24, 2))
    # XLA may run the smaller last batch first, which is then read ahead once more.
    assert set(disk.read) == set(range(12)) and len(disk.read) <= 12 + 5 + 2


def test_a_reading_error_comes_as_itself_and_alone(disk, caplog, capfd):
    images = stream_in_parallel(disk, 200, SHAPE)
    sums = jax.jit(lambda images: map_examples(lambda x: x.sum(), images, batch_size=4))
    with caplog.at_level(logging.DEBUG, "jax._src.callback"):
        with pytest.raises(UserError, match="^image 13 is damaged; replace it$"):
            with plain_errors(np.zeros(1), images):
                sums(images[:14]).block_until_ready()
        assert caplog.records == [] and capfd.readouterr() == ("", "")
        with plain_errors(images):  # the error is not raised again
            assert sums(images[:13]).tolist() == [4 * i for i in range(13)]


def test_what_pillow_warns_of_is_left_out(recwarn):
    with plain_errors():
        warnings.warn_explicit("a bomb", UserWarning, "Image.py", 1, "PIL.Image")
        warnings.warn_explicit("news", UserWarning, "other.py", 1, "other")
    assert [str(warning.message) for warning in recwarn] == ["news"]


def test_another_error_is_not_passed_off_as_a_reading_error(disk, caplog):
    images = stream_in_parallel(disk, 200, SHAPE)
    with pytest.raises(jax.errors.JaxRuntimeError, match="ZeroDivisionError"):
        with plain_errors(images):
            jax.jit(take)(images, jnp.array([14])).block_until_ready()
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_an_interrupt_while_reading_is_an_interrupt():
    def read_one(i):
        raise KeyboardInterrupt

    images = stream_in_parallel(read_one, 10, SHAPE)
    with pytest.raises(KeyboardInterrupt), plain_errors(images):
        jax.jit(take)(images, jnp.array([1])).block_until_ready()
