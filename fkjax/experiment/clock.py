"""Seconds and peak memory of the phases of a round."""

import resource
import sys
import time
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory_mb() -> float:
    """Returns the peak resident memory since `forget_peak`, in megabytes.

    If the system cannot reset the peak, as outside Linux, it is the peak since the
    start of the process.
    """
    if _RESET.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def forget_peak() -> None:
    """Resets the peak, if the system can."""
    try:
        _RESET.write_text("5")
    except OSError:
        return  # not Linux, or not permitted: the peak remains that of the process


class Clock:
    """A clock of the seconds and the peak memory of the phases of a round.

    Attributes:
        seconds: seconds of each phase that has ended.
        peak_memory_mb: peak memory of each phase that has ended, in MB.
    """

    def __init__(self) -> None:
        """Starts the first phase."""
        self.seconds: dict[str, float] = {}
        self.peak_memory_mb: dict[str, float] = {}
        self._begin()

    def _begin(self) -> None:
        forget_peak()
        self._since = time.perf_counter()

    def stop(self, phase: str) -> None:
        """Ends a phase and starts the next.

        Args:
            phase: name of the phase that ends.
        """
        self.seconds[phase] = time.perf_counter() - self._since
        self.peak_memory_mb[phase] = peak_memory_mb()
        self._begin()
