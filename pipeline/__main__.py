"""`python -m pipeline` and the console script `pipeline`."""

from __future__ import annotations

import os
import sys

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    # OpenMP's threads spin while they wait: on a machine with other work to do a training step took
    # 2.3 CPU seconds with spinning threads, 0.5 with sleeping ones. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code: object = EXIT_INTERRUPTED
    try:
        from pipeline.core.interrupts import end_quietly, interruptible

        with interruptible() as interrupts:
            _open_streams()
            code = _run()
            # What click makes of an interrupt outside of our own handling.
            code = EXIT_INTERRUPTED if code == 1 and interrupts.came else code
        end_quietly()
    except KeyboardInterrupt:  # while it was still starting or already ending
        pass
    sys.exit(code)  # type: ignore[arg-type]


def _run() -> object:
    try:
        from pipeline.app.cli import app
    except ModuleNotFoundError as error:
        return _refuse(error)
    from pipeline.core.interrupts import raise_deferred

    raise_deferred()
    try:
        app()
    except SystemExit as ending:
        return ending.code
    return 0


def _refuse(error: ModuleNotFoundError) -> int:
    """Say which package of the installation is missing."""
    from pipeline.core.extras import missing_package

    name = (error.name or "").split(".")[0]
    if name in ("", "pipeline", "scrapers"):
        raise error
    sys.stderr.write(f"Error: {missing_package('Every command', name)}\n")
    return 1


def _open_streams() -> None:
    """Give closed streams a place to go, and let none fail for a character that it can't show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123,SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
