"""What several devices compute together is what one computes alone.

The checks are in `on_devices.py`, which runs in a process of its own: the devices of a
process are counted when JAX starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = [
    *("embed tiny", "embed residual", "descriptors tiny", "descriptors residual"),
    *("vectors residual", "captured factors", "rounds streamed on two", "reading"),
    "ties",
    "picks",
]
LONGER = [
    *("embed resnet", "descriptors resnet", "vectors resnet"),
    *("rounds in memory on four", "picks of all"),
]


def run(names):
    """What each check raised: nothing, or its traceback."""
    flags = os.environ.get("XLA_FLAGS", "")
    devices = "--xla_force_host_platform_device_count=4"
    result = subprocess.run(
        [sys.executable, "-m", "tests.parallel.on_devices", *names],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": f"{flags} {devices}"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def raised():
    return run(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_several_devices_give_what_one_gives(name, raised):
    assert not raised[name], raised[name]


@pytest.mark.integration
def test_longer_checks_of_several_devices():
    raised = run(LONGER)
    assert not any(raised.values()), "\n".join(raised.values())
