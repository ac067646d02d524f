"""What `make airflow` starts, waits for and ends; Airflow itself is tried in `tests/dags`."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "dags" / "standalone.py"
HEALTHY = {"scheduler": {"status": "healthy"}, "dag_processor": {"status": "healthy"}}
SICK = {**HEALTHY, "dag_processor": {"status": "unhealthy"}}


@pytest.fixture
def standalone() -> ModuleType:
    spec = importlib.util.spec_from_file_location("standalone", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def handlers() -> Iterator[None]:
    """`end` ignores signals from then on; afterwards they do again what they did."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(script: Path, code: str, home: Path) -> subprocess.Popen[bytes]:
    """A process of the Airflow in `home`; it has begun when this returns."""
    script.write_text(f"print(1, flush=True)\n{code}")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "AIRFLOW_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_port_in_use_is_refused_and_a_free_one_is_not(standalone: ModuleType) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"Port {port} is not available"):
            standalone.refuse_busy_port(port)
    standalone.refuse_busy_port(port)


def test_airflow_is_reached_from_this_machine_alone_and_runs_our_dags(
    standalone: ModuleType, tmp_path: Path
) -> None:
    found = standalone.environment(tmp_path, Path("/bin/pipeline"), tmp_path / "o.toml", 8085)
    expected = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": "8085",
        "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8085",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:8085/execution/",
        "AIRFLOW__CORE__DAGS_FOLDER": str(SCRIPT.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "DALLE_PIPELINE_COMMAND": "/bin/pipeline",
        "DALLE_PIPELINE_WORKSPACE": str(tmp_path / "workspace"),
        "DALLE_PIPELINE_CONFIG": str(tmp_path / "o.toml"),
    }
    assert found.items() >= expected.items()
    assert found["PATH"] == os.environ["PATH"]
    assert "--skip-serve-logs" in standalone.PARTS["scheduler"]  # else it listens on all addresses


def test_a_component_that_has_ended_ends_everything(
    standalone: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        start(tmp_path / "alive", "input()", tmp_path) as alive,
        start(tmp_path / "dead", "raise SystemExit(3)", tmp_path) as dead,
    ):
        dead.wait()
        standalone.check_parts({"scheduler": alive}, tmp_path)
        with pytest.raises(SystemExit) as ended:
            standalone.check_parts({"scheduler": alive, "api-server": dead}, tmp_path)
        alive.kill()
    assert ended.value.code == 1
    expected = f"The api-server has exited with 3; see {tmp_path}/api-server.log.\n"
    assert capsys.readouterr().out == expected


# --- Waiting until it is ready -------------------------------------------------------------------


@pytest.fixture
def health() -> Iterator[tuple[int, list[object]]]:
    """A server whose health reports are taken from a list; the last one stays. Its port, and the list."""
    reports: list[object] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            report = reports.pop(0) if len(reports) > 1 else reports[0]
            self.send_response(200 if self.path == "/api/v2/monitor/health" else 404)
            self.end_headers()
            self.wfile.write(report if isinstance(report, bytes) else json.dumps(report).encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], reports
        server.shutdown()


def test_it_is_ready_when_scheduler_and_dag_processor_are_healthy(
    standalone: ModuleType, tmp_path: Path, health: tuple[int, list[object]]
) -> None:
    port, reports = health
    reports += [b"<html>", SICK, HEALTHY, HEALTHY]
    standalone.wait_until_ready({}, port, tmp_path)
    assert reports == [HEALTHY]


def test_it_is_not_waited_for_without_end(
    standalone: ModuleType,
    tmp_path: Path,
    health: tuple[int, list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, reports = health
    reports.append(SICK)
    monkeypatch.setattr(standalone, "STARTS_WITHIN_S", 1)
    with pytest.raises(SystemExit, match="not ready within 1 s"):
        standalone.wait_until_ready({}, port, tmp_path)


def test_nothing_is_waited_for_if_a_component_dies_first(
    standalone: ModuleType, tmp_path: Path, health: tuple[int, list[object]]
) -> None:
    port, reports = health
    reports.append(SICK)
    with start(tmp_path / "dead", "", tmp_path) as dead:
        dead.wait()
        with pytest.raises(SystemExit) as ended:
            standalone.wait_until_ready({"scheduler": dead}, port, tmp_path)
    assert ended.value.code == 1


def test_a_server_that_is_not_there_has_no_health(standalone: ModuleType) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert standalone.read_health(free.getsockname()[1]) is None


# --- The end -------------------------------------------------------------------------------------

# Counts how often it is asked to end, and ends a while after the first time.
SAVES = """
import signal, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print(2, flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(2.5)
print(len(asked), flush=True)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(2, flush=True)
time.sleep(600)
"""


def test_its_processes_are_known_by_their_home(standalone: ModuleType, tmp_path: Path) -> None:
    home = tmp_path / "home"
    scheduler, command, task, other = started = [
        start(tmp_path / name, "input()", place)
        for name, place in (
            ("airflow", home),
            ("pipeline", home),
            ("task", home),
            ("pipeline", tmp_path / "another"),
        )
    ]
    try:
        names = {scheduler.pid: "scheduler", command.pid: "pipeline", task.pid: "tasks"}
        assert standalone.running({"scheduler": scheduler}, home) == names
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert standalone.running({"scheduler": scheduler}, home) == {}
    assert other.pid not in names


def test_it_never_counts_itself(tmp_path: Path) -> None:
    """Even if it was started with the variable that identifies the processes."""
    code = (
        "import pathlib, runpy, sys\n"
        "print(runpy.run_path(sys.argv[1])['running']({}, pathlib.Path(sys.argv[2])))"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    line = [sys.executable, "-c", code, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"


@pytest.mark.usefixtures("handlers")
def test_a_component_is_asked_to_end_and_not_killed(
    standalone: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    component = start(tmp_path / "airflow", "input()", tmp_path)
    standalone.end({"scheduler": component}, tmp_path)
    assert component.returncode == -signal.SIGTERM
    assert capsys.readouterr().out.endswith("Ended.\n")


@pytest.mark.usefixtures("handlers")
def test_a_command_is_asked_to_end_once_and_is_waited_for(
    standalone: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = start(tmp_path / "pipeline", SAVES, tmp_path)
    assert command.stdout is not None
    command.stdout.readline()
    reaper = threading.Thread(target=command.wait)
    reaper.start()
    standalone.end({}, tmp_path)
    reaper.join()
    assert command.returncode == 0
    assert command.stdout.read() == b"1\n"
    assert capsys.readouterr().out == "Ending; waiting for pipeline.\nEnded.\n"


@pytest.mark.usefixtures("handlers")
def test_what_does_not_end_in_time_is_killed(
    standalone: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "STOPS_WITHIN_S", 1)
    stubborn = start(tmp_path / "airflow", STUBBORN, tmp_path)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    begun = time.monotonic()
    standalone.end({"scheduler": stubborn}, tmp_path)
    assert stubborn.returncode == -signal.SIGKILL
    assert time.monotonic() - begun >= 1
