"""`python -m pipeline` and the console script `pipeline`."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # OpenMP's threads spin while they wait: on a machine with other work to do a training step took
    # 2.3 CPU seconds with spinning threads, 0.5 with sleeping ones. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipeline.cli import app

    app()


if __name__ == "__main__":
    main()
