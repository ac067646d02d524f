"""What holds for every test."""

from __future__ import annotations

import os

# As in `pipeline.__main__`: threads that wait must not take the cores from the rest of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
