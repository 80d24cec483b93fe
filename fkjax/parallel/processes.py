"""Runs of several processes: connecting them, broadcasting values, and failures.

All processes run the same command, and are connected by `jax.distributed`. Only the
first one writes files and prints. If a process dies, processes that communicate with it
on CPUs notice at once, because its connections break; all others notice when its
heartbeats are missing. They cannot continue without it, so each of them stops with a
message.
"""

import contextlib
import ctypes
import functools
import importlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from unittest import mock

import flax.serialization
import jax
import numpy as np
from jax.experimental import multihost_utils

from fkjax.base import UserError

PEER_LOST = 3
"""The exit status of a process that stops because another process stopped."""

_CLIENT = "get_distributed_runtime_client"
_HEARTBEAT_SECONDS = 30
_MEETING_SECONDS = 120
_stopping = threading.Lock()


def connect(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects to the other processes; must be called before JAX computes anything.

    An argument that is None is read from the environment variable below. If that is not
    set either, JAX detects the value on clusters that it supports, such as Slurm's.

    Args:
        coordinator: address HOST:PORT of the first process, or None for
            JAX_COORDINATOR_ADDRESS.
        num_processes: number of processes, or None for JAX_NUM_PROCESSES.
        process_id: number of this process, 0 for the first, or None for JAX_PROCESS_ID.

    Raises:
        UserError: if a value is missing or invalid, or the processes cannot be
            connected.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number(num_processes, "JAX_NUM_PROCESSES")
    process_id = _number(process_id, "JAX_PROCESS_ID")
    if coordinator and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(
            f"--coordinator must be HOST:PORT, such as 10.0.0.1:1234, got {coordinator}"
        )
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise UserError(
                "--process-id must be 0 or more and less than --num-processes, got "
                f"{process_id} of {num_processes}"
            )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # By default, JAX aborts if a process is lost, with a long C++ stack trace.
    runtime, name = importlib.import_module("jaxlib._jax"), _CLIENT
    client = functools.partial(
        getattr(runtime, name), missed_heartbeat_callback=_peer_lost
    )
    # jaxlib 0.10 cannot convert the callback's argument to Python, and C++ terminates.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(_TERMINATE)
    try:
        with mock.patch.object(runtime, name, client):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=_MEETING_SECONDS,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the processes could not be connected ({reason}); give each of them "
            "--coordinator HOST:PORT of the first one, --num-processes, and its own "
            "--process-id, starting at 0"
        ) from error
    with _quiet_stdout():  # Gloo prints that it is connected
        agreed(lambda: None)


def is_first() -> bool:
    """Returns whether this is the first process, which writes files and prints."""
    return jax.process_index() == 0


def agreed(make: Callable[[], Any]) -> Any:
    """Broadcasts a value from the first process to all; must be called by all of them.

    Args:
        make: function that returns the value: nested dicts and lists of numbers,
            strings and arrays. It is called only in the first process.

    Returns:
        The value, in each process.
    """
    if jax.process_count() == 1:
        return make()
    data = flax.serialization.msgpack_serialize(make()) if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    buffer = np.frombuffer(data.ljust(size, b"\0"), np.uint8)
    buffer = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    return flax.serialization.msgpack_restore(buffer.tobytes())


@contextlib.contextmanager
def stopping_together() -> Iterator[None]:
    """Stops all processes soon if an exception stops one of them within the context.

    A process that fails exits at once. Otherwise, JAX would have it wait at the end for
    the others, which are waiting for it.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, UserError):
            _stop(f"fkjax: {error}", 2)
        if isinstance(error, KeyboardInterrupt):
            _stop("fkjax: interrupted", 130)
        if "Gloo" in str(error):
            _peer_lost()
        _stop(traceback.format_exc().rstrip(), 1)


def _peer_lost(*_: Any) -> NoReturn:
    _stop(
        "fkjax: another process of this run stopped or cannot be reached, so this one "
        "stops, too; start all of them again with the same commands to resume after "
        "the last finished round",
        PEER_LOST,
    )


_TERMINATE = ctypes.CFUNCTYPE(None)(_peer_lost)


def _stop(message: str, status: int) -> NoReturn:
    _stopping.acquire()  # never released, so that only one thread prints a message
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _number(given: int | None, name: str) -> int | None:
    text = os.environ.get(name)
    if given is not None or text is None:
        return given
    if not text.isdecimal():
        raise UserError(f"{name} must be a whole number, got {text!r}")
    return int(text)


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
