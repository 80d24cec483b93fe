"""The most memory that this process has held at once."""

import resource
import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory_mb() -> float:
    """The peak of resident memory since `forget_peak`, in megabytes.

    Where the system cannot forget a peak, as outside Linux, since the process began.
    """
    if _RESET.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def forget_peak() -> None:
    """Lets the peak begin anew, where the system can."""
    try:
        _RESET.write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the process
