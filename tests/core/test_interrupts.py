"""Ctrl-C and SIGTERM at any moment: exit code 130 and a sentence, nothing else."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.interrupts import interruptible
from pipeline.core.workspace import Workspace

# Sends a signal to this process each time that the module named first is searched for, then runs the
# command line. So every point of the start-up is tested, however fast the machine is.
STARTED = """
import os, signal, sys

class Moment:
    def find_spec(self, name, *_):
        if name == moment:
            for number in numbers:
                os.kill(os.getpid(), number)

moment, *numbers = sys.argv[1].split(",")
numbers = [int(number) for number in numbers]
sys.meta_path.insert(0, Moment())
del sys.argv[1]
from pipeline.__main__ import main
main()
"""
# Runs `pipeline dedupe` with a stage that does what the test needs.
WORKING = """
import atexit, os, signal, sys, time
import pipeline.app.stages
from pipeline.__main__ import main

def work(config, progress):
    {work}

pipeline.core.stage.load_entry_point = lambda name: work
main()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Workspace(tmp_path / "data").open(source="dalleblog").root


def import_and_wait(name: str) -> None:
    with interruptible():
        importlib.import_module(name)
        time.sleep(30)


def start(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_import_is_never_interrupted_and_the_signal_is_raised_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Like torch with numpy: exceptions during its import are swallowed, or abort the process.
    (tmp_path / "like_torch.py").write_text(
        "import os, signal, time\n"
        "met = []\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
        "except BaseException as error:\n"
        "    met.append(error)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_and_wait("like_torch")
    assert sys.modules["like_torch"].met == []


def test_imports_that_began_before_the_command_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(
        "import os, signal, time\n"
        "from pipeline.core.interrupts import interruptible\n"
        "try:\n"
        "    with interruptible():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    ended = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("script").ended


def test_an_ignored_signal_stays_ignored_and_handlers_are_restored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("typer", signal.SIGINT),
        ("typer", signal.SIGTERM),
        ("pipeline.app.cli", signal.SIGINT),
        ("pipeline.app.cli", signal.SIGTERM),
        ("pipeline.encode.run", signal.SIGINT),
        # From here on, most of the time is that of importing torch.
        ("torch", signal.SIGTERM),
        ("torch._C", signal.SIGINT),
    ],
)
def test_a_signal_during_startup_is_exit_code_130(
    root: Path, moment: str, number: signal.Signals
) -> None:
    done = start(STARTED, f"{moment},{int(number)}", "encode", "--workspace", str(root))
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_second_interrupt_in_an_import_ends_immediately(root: Path) -> None:
    moment = f"torch._C,{int(signal.SIGINT)},{int(signal.SIGINT)}"
    done = start(STARTED, moment, "encode", "--workspace", str(root))
    assert done.returncode == 130
    assert done.stderr == "\nError: stopped immediately. Finished work is kept.\n"


@pytest.mark.parametrize(
    "work",
    [
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(30)",
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)",
        # Again while it cleans up.
        "\n    try: raise KeyboardInterrupt\n    finally: os.kill(os.getpid(), signal.SIGINT)",
        # Again while it prints that it was stopped.
        "\n    import pipeline.app.console\n"
        "    pipeline.app.console.Screen.fail = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "    raise KeyboardInterrupt",
        # Again when everything is printed and the interpreter exits.
        "\n    atexit.register(os.kill, os.getpid(), signal.SIGINT)\n    raise KeyboardInterrupt",
    ],
)
def test_interrupts_on_interrupts_are_exit_code_130(root: Path, work: str) -> None:
    done = start(WORKING.format(work=work), "dedupe", "--workspace", str(root))
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "unexpected error" not in done.stderr


def test_closed_streams_do_not_crash(root: Path) -> None:
    command = f"{sys.executable} -m pipeline status --workspace {root} >&- 2>&-"
    assert subprocess.run(command, shell=True, timeout=60).returncode == 0
