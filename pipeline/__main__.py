"""`python -m pipeline` and the console script `pipeline`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    # OpenMP's threads spin while they wait: on a machine with other work to do a training step took
    # 2.3 CPU seconds with spinning threads, 0.5 with sleeping ones. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from pipeline.cli import app

        app()
    except KeyboardInterrupt:  # while it was still starting or already ending
        sys.exit(130)


if __name__ == "__main__":
    main()
