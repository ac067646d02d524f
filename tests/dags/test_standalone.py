"""`make airflow`: a started Airflow, its scheduler killed, its worker killed, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("airflow")

from tests.helpers.dags import PIPELINE, ROOT

WITHIN_S = 400
ENDS_WITHIN_S = 15.0
SCRAPE = r"pipeline scrape (?!.*--plan)"
# No run of its own: the next one is due on the 29th of February. What died is noticed soon, and tried again.
SETTINGS = {
    "DALLE_PIPELINE_SCHEDULE": "0 0 29 2 *",
    "DALLE_PIPELINE_RETRY_HOURS": "0.0001",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
}

REFRESH = "/api/v2/dags/dalleblog_refresh/dagRuns"
BACKFILL = {
    "dag_id": "dalleblog_refresh",
    "from_date": "2026-02-01T00:00:00Z",
    "to_date": "2026-03-31T00:00:00Z",
    "reprocess_behavior": "none",
    "max_active_runs": 1,
    "run_backwards": False,
    "dag_run_conf": {},
}


class Api:
    """Airflow's REST API, as its admin."""

    def __init__(self, address: str, password: str) -> None:
        self.address, self.token = address, ""
        answer = self.call("/auth/token", {"username": "admin", "password": password})
        self.token = str(answer["access_token"])

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def trigger(self, **conf: Any) -> str:
        """A run of `dalleblog_refresh`; returns its name."""
        asked = {"logical_date": None, "conf": conf}
        return str(self.call(REFRESH, asked)["dag_run_id"])

    def wait_for_run(self, dag: str, run: str | None = None) -> Any:
        """The run of a DAG, the only one if none is named, ended."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            for found in self.call(f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]:
                is_meant = run in (None, found["dag_run_id"])
                if is_meant and found["state"] in ("success", "failed"):
                    return found
            time.sleep(1)
        raise AssertionError(f"{dag} did not end within {WITHIN_S} s")


def start_line(home: Path, port: int) -> list[str]:
    line = [sys.executable, str(ROOT / "dags" / "standalone.py"), "--home", str(home)]
    line += ["--airflow", str(Path(sys.executable).parent / "airflow")]
    return [*line, "--pipeline", str(PIPELINE), "--port", str(port), "--size", "32"]


@contextmanager
def started(home: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], Api]]:
    """`standalone.py`, ready, and its API; it has ended, with all its processes, afterwards."""
    process = subprocess.Popen(
        start_line(home, port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **SETTINGS},
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(7)]
        assert f"http://127.0.0.1:{port}" in said[1], said
        password = json.loads(Path(said[2].split(" in ")[1].strip()).read_text())["admin"]
        yield process, Api(f"http://127.0.0.1:{port}", password)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    deadline = time.monotonic() + ENDS_WITHIN_S
    while (left := processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.1)  # those that were killed last are still being reaped
    assert left == {}


@pytest.mark.timeout(900)
def test_a_started_airflow_survives_its_scheduler_and_a_worker(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path / "home"
    with started(home, port) as (process, api):
        dags = {dag["dag_id"]: dag["is_paused"] for dag in api.call("/api/v2/dags")["dags"]}
        assert dags == {"dalleblog_refresh": False, "dalleblog_train": False}
        assert {address for address, _ in listening(home)} == {"127.0.0.1"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            api.call("/api/v2/backfills", BACKFILL)
        assert 400 <= refused.value.code < 500
        again = subprocess.run(start_line(home, port), capture_output=True, text=True, timeout=60)
        assert f"Port {port} is not available" in again.stderr
        marked = api.trigger(limit=2, rate=0.1)
        wait_for(home, SCRAPE)
        api.call(f"{REFRESH}/{quote(marked)}", {"state": "failed"}, "PATCH")
        wait_until_gone(home, SCRAPE)
        (alert,) = alerts_of(home)
        assert alert.startswith("scrape was stopped from outside")
        run = api.trigger(limit=2, parts=2)
        wait_for(home, SCRAPE)
        os.kill(wait_for(home, r"airflow scheduler"), signal.SIGKILL)
        assert process.wait(90) == 1
        assert process.stdout is not None
        said = process.stdout.read()
        assert "The scheduler has exited with -9; see " in said
        assert "Ended." in said
    with started(home, port) as (process, api):
        command = wait_for(home, r"pipeline (dedupe|run|encode|shard)")
        os.kill(parent_of(command), signal.SIGKILL)
        refreshed = api.wait_for_run("dalleblog_refresh", run)
        assert refreshed["state"] == "success", failures(home)
        trained = api.wait_for_run("dalleblog_train")
        assert trained["state"] == "success", failures(home)
        assert trained["run_type"] == "asset_triggered"
        parts = api.call(f"{REFRESH}/{quote(run)}/taskInstances?task_id=scrape")["task_instances"]
        names = {part["rendered_map_index"] for part in parts if part["task_id"] == "scrape"}
        assert names == {"relative_positions", "stacking_snap"}
        assert len(list((home / "workspace" / "runs").glob("dalle-*/manifest.json"))) == 1
        # The same again is no news.
        again = api.wait_for_run("dalleblog_refresh", api.trigger(limit=2, parts=1))
        assert again["state"] == "success", failures(home)
        assert api.call("/api/v2/dags/dalleblog_train/dagRuns")["total_entries"] == 1


def processes_of(home: Path) -> dict[int, str]:
    """Command lines of what runs for that Airflow, by process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"AIRFLOW_HOME={home}".encode() in variables and line:
            found[int(folder.name)] = line
    return found


def wait_for(home: Path, pattern: str) -> int:
    """A process of that Airflow with such a command line."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        for number, line in processes_of(home).items():
            if re.search(pattern, line) and "/sh " not in line:
                return number
        time.sleep(0.05)
    raise AssertionError(
        f"no {pattern} within {WITHIN_S} s: {processes_of(home)}; {failures(home)}"
    )


def wait_until_gone(home: Path, pattern: str) -> None:
    """No process of that Airflow has such a command line any more, nor waits for it to end."""
    deadline = time.monotonic() + WITHIN_S
    while any(re.search(pattern, line) for line in processes_of(home).values()) or not alerts_of(
        home
    ):
        assert time.monotonic() < deadline, processes_of(home)
        time.sleep(0.1)


def alerts_of(home: Path) -> list[str]:
    path = home / "workspace" / "alerts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["message"] for line in lines]


def parent_of(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def listening(home: Path) -> set[tuple[str, int]]:
    """Addresses and ports on which that Airflow's processes listen."""
    found = set()
    for number in processes_of(home):
        sockets = set()
        for link in Path(f"/proc/{number}/fd").iterdir():
            try:
                sockets |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
            except OSError:
                continue
        for name in ("tcp", "tcp6"):
            for line in Path(f"/proc/{number}/net/{name}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and words[9] in sockets:
                    found.add(address_of(words[1]))
    return found


def address_of(text: str) -> tuple[str, int]:
    """`0100007F:1F90` as the kernel has it → 127.0.0.1, 8080."""
    host, port = text.split(":")
    if len(host) > 8:
        return host, int(port, 16)
    return socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(port, 16)


def failures(home: Path) -> str:
    """What the logs of the tasks say of errors."""
    logs = sorted((home / "logs").rglob("attempt=*.log"))
    lines = [(path, line) for path in logs for line in path.read_text().splitlines()]
    words = ('"level":"error"', "Error:")
    found = [f"{path}: {line[:600]}" for path, line in lines if any(w in line for w in words)]
    return "\n".join(found)
