"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.helpers.logging_state import logging_restored

# As in `pipeline.__main__`: threads that wait must not take the cores from the rest of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell starts what it puts in the background with interrupts ignored, and tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
