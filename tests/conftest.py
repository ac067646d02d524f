"""What holds for every test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

from tests.helpers.logging_state import logging_restored

# As in `pipeline.__main__`: threads that wait must not take the cores from the rest of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The last bits of sums depend on it, and tests compare processes; more threads make small models slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what it puts in the background with interrupts ignored, and tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)

with contextlib.suppress(ImportError):  # Airflow's environment has no hypothesis
    from hypothesis import HealthCheck, settings

    # No test depends on the speed of the machine.
    settings.register_profile(
        "at any load", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("at any load")

# Where temporary files are kept in memory, and the room that all tests together need there.
MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Put the tests' files into memory if there is room: syncing them to a disk takes longer than the rest.

    `--basetemp FOLDER` keeps them, wherever they are wanted.
    """
    if hasattr(config, "workerinput") or config.option.basetemp is not None:
        return
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        folder = tempfile.mkdtemp(prefix="dalle-pipeline-tests-", dir=MEMORY)
        Path(folder).chmod(0o755)  # Some tests become another user.
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        # In this process only, and after multiprocessing has removed what it keeps there (at priority -100).
        Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    with logging_restored():
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device if there is none."""
    if item.get_closest_marker("cuda") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
