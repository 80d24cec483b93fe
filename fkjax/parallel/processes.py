"""Several processes as one run: how they meet, what they agree on, and if one dies.

Every process runs the same command; the first alone writes and speaks. They meet by
`jax.distributed`. A process that dies is noticed at once by those that exchange
something with it on CPU, where its connections break, and by all others when its
heartbeats are missed. They cannot go on without it: each says so, and stops.
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
"""The exit status of a process that stops because another one did."""

_CLIENT = "get_distributed_runtime_client"
_HEARTBEAT_SECONDS = 30
_MEETING_SECONDS = 120
_stopping = threading.Lock()


def connect(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Meets the other processes; to be called before JAX computes anything.

    Args:
        coordinator: HOST:PORT of the first process, at which they meet. Else from the
            environment's JAX_COORDINATOR_ADDRESS, or as JAX finds it in a cluster of a
            kind that it knows, such as Slurm's; so are the other two.
        num_processes: else JAX_NUM_PROCESSES.
        process_id: from 0, of the first, on; else JAX_PROCESS_ID.

    Raises:
        UserError: if one of them is not known or cannot be, or the others do not come.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number(num_processes, "JAX_NUM_PROCESSES")
    process_id = _number(process_id, "JAX_PROCESS_ID")
    if coordinator and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(
            "--coordinator must be HOST:PORT, such as 10.0.0.1:1234, got "
            f"{coordinator}."
        )
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise UserError(
                "--process-id must be from 0 to below --num-processes, got "
                f"{process_id} of {num_processes}."
            )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX's own answer to a lost process is to abort, with a page of C++ calls.
    runtime, name = importlib.import_module("jaxlib._jax"), _CLIENT
    client = functools.partial(
        getattr(runtime, name), missed_heartbeat_callback=_peer_lost
    )
    # jaxlib 0.10 cannot turn the callback's argument into Python: C++ then terminates.
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
            f"The processes did not meet ({reason}): give each --coordinator HOST:PORT "
            "of the first one, --num-processes, and its own --process-id from 0 on."
        ) from error
    with _quiet_stdout():  # Gloo tells there that it is connected
        agreed(lambda: None)


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def agreed(make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, in all of them; to be called by all.

    Args:
        make: gives nested dicts and lists of numbers, strings and arrays. It is called
            in the first process only.
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
    """Within it, whatever stops one of several processes stops all, and soon.

    A process that fails leaves without the farewell for which JAX would let it wait for
    the others, who wait for it.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, UserError):
            _stop(f"fkjax: {error}", 2)
        if isinstance(error, KeyboardInterrupt):
            _stop("fkjax: interrupted.", 130)
        if "Gloo" in str(error):
            _peer_lost()
        _stop(traceback.format_exc().rstrip(), 1)


def _peer_lost(*_: Any) -> NoReturn:
    _stop(
        "fkjax: another process of this run stopped or cannot be reached, so this one "
        "stops too: start all of them again by the same commands to go on after the "
        "last finished round.",
        PEER_LOST,
    )


_TERMINATE = ctypes.CFUNCTYPE(None)(_peer_lost)


def _stop(message: str, status: int) -> NoReturn:
    _stopping.acquire()  # for good: the first thread to stop is the one that speaks
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _number(given: int | None, name: str) -> int | None:
    text = os.environ.get(name)
    if given is not None or text is None:
        return given
    if not text.isdecimal():
        raise UserError(f"{name} must be a whole number, but it is {text!r}: mend it.")
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
