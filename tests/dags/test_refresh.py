"""The DAGs as Airflow sees them, and whole runs of them on a replica."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow")

from tests.dags.conftest import PIPELINE, ROOT

OPTIONS = """
[scrape]
page_url = "http://dalleblog.localhost/blog/dall-e/"
connect_to = "{address}"
attempts = 2
backoff_s = 0.05

[dedupe]
val_fraction = 0.3
workers = 0

[train-tokenizer]
vocab_size = 300

[train-codec]
image_size = 32
channels = 8
code_dim = 8
num_tokens = 32
steps = 6

[shard]
text_seq_len = 24

[train]
dim = 16
depth = 1
heads = 2
dim_head = 8
steps = 4
batch_size = 4
tensorboard = false
"""


@pytest.fixture(scope="module")
def bag() -> Any:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils import db

    db.initdb()
    return DagBag(str(ROOT / "dags"))


def test_the_dags_can_be_read_fast_and_without_torch(bag: Any) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {"dalleblog_refresh", "dalleblog_train"}
    assert sum(stat.duration.total_seconds() for stat in bag.dagbag_stats) < 1
    assert not {"torch", "pandas", "pipeline", "scrapers"} & set(sys.modules)


def test_they_have_no_cycles_and_run_one_at_a_time(bag: Any) -> None:
    for dag in bag.dags.values():
        dag.check_cycle()
        assert (dag.catchup, dag.max_active_runs) == (False, 1)
    refresh, train = bag.dags["dalleblog_refresh"], bag.dags["dalleblog_train"]
    assert str(refresh.schedule) == "@weekly"
    order = [task.task_id for task in refresh.topological_sort()]
    road = [
        "page",
        "plan",
        "scrape",
        "judge",
        "dedupe",
        "models",
        "shard",
        "verify",
        "report",
    ]
    assert [name for name in order if name in road] == road
    assert refresh.get_task("shard").arguments == ["shard", "--encode-vqgan"]
    assert refresh.get_task("scrape").max_active_tis_per_dagrun == 1
    assert [asset.name for asset in refresh.get_task("publish").outlets] == ["dalleblog_shards"]
    assert [asset.name for asset in train.schedule] == ["dalleblog_shards"]


def states(run: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for ti in run.get_task_instances():
        found.setdefault(ti.task_id, []).append(str(ti.state))
    return found


def test_the_whole_refresh_on_a_replica_and_again(
    bag: Any, tmp_path: Path, start_replica: Any
) -> None:
    workspace, config = tmp_path / "data", tmp_path / "options.toml"
    conf = {
        "command": str(PIPELINE), "workspace": str(workspace), "config": str(config),
        "sections": ["relative_positions", "stacking_snap"], "parts": 2, "limit": 3,
    }  # fmt: skip
    sections = ("--sections", "relative_positions", "--sections", "stacking_snap")
    address = start_replica(*sections)
    config.write_text(OPTIONS.format(address=address))
    dag = bag.dags["dalleblog_refresh"]

    first = dag.test(run_conf=conf)
    assert str(first.state) == "success", states(first)
    assert states(first)["scrape"] == ["success", "success"]
    assert states(first)["publish"] == ["success"]
    assert (workspace / "report.html").exists()
    before = read_shards(workspace)
    assert before
    assert not (workspace / "alerts.jsonl").exists()

    # The next week one section is gone from the page and every third image fails.
    start_replica.started[-1].terminate()
    start_replica.started[-1].wait()
    port = int(address.split(":")[1])
    start_replica("--sections", "relative_positions", "--missing", "0.3", port=port)
    second = dag.test(run_conf=conf)
    assert str(second.state) == "success", states(second)
    assert states(second)["publish"] == ["skipped"]
    assert read_shards(workspace) == before
    lines = (workspace / "alerts.jsonl").read_text().splitlines()
    messages = [json.loads(line)["message"] for line in lines]
    assert "The page lost sections: stacking_snap" in messages
    assert any("of the fetches were good" in message for message in messages)
    assert any("of the data is new, changed or gone" in message for message in messages)


def read_shards(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "shards" / "default"
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


# --- A started Airflow ---------------------------------------------------------------------------


class Api:
    """Airflow's REST API, as its admin."""

    def __init__(self, address: str, password: str) -> None:
        self.address = address
        self.token = ""
        answer = self.call("/auth/token", {"username": "admin", "password": password})
        self.token = str(answer["access_token"])

    def call(self, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def wait_for_run(self, dag: str, run: str | None = None, within_s: float = 300) -> Any:
        """The run, ended: the one named, else the first there is."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            runs = self.call(f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]
            for found in runs:
                if run in (None, found["dag_run_id"]) and found["state"] in ("success", "failed"):
                    return found
            time.sleep(1)
        raise AssertionError(f"{dag} did not end within {within_s} s")


@pytest.mark.timeout(900)
def test_a_started_airflow_runs_both_dags_and_leaves_no_process(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path / "home"
    command = [sys.executable, str(ROOT / "dags" / "standalone.py"), "--home", str(home)]
    command += ["--airflow", str(Path(sys.executable).parent / "airflow")]
    command += ["--pipeline", str(PIPELINE), "--port", str(port), "--size", "32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(6)]
        assert f"http://127.0.0.1:{port}" in said[0], said
        password = json.loads(Path(said[1].split(" in ")[1].strip()).read_text())["admin"]
        api = Api(f"http://127.0.0.1:{port}", password)
        dags = {dag["dag_id"]: dag["is_paused"] for dag in api.call("/api/v2/dags")["dags"]}
        assert dags == {"dalleblog_refresh": False, "dalleblog_train": False}
        conf = {"parts": 2, "limit": 2}
        asked = api.call(
            "/api/v2/dags/dalleblog_refresh/dagRuns", {"logical_date": None, "conf": conf}
        )
        refreshed = api.wait_for_run("dalleblog_refresh", asked["dag_run_id"])
        assert refreshed["state"] == "success", failures(home)
        trained = api.wait_for_run("dalleblog_train")
        assert trained["state"] == "success", failures(home)
        assert trained["run_type"] == "asset_triggered"
        assert list((home / "workspace" / "runs").glob("dalle-*/manifest.json"))
    finally:
        process.send_signal(2)
        process.wait(90)
    assert processes_of(home, port) == []


def failures(home: Path) -> str:
    """What the logs of the tasks say of errors."""
    logs = sorted((home / "logs").rglob("attempt=*.log"))
    lines = [(path, line) for path in logs for line in path.read_text().splitlines()]
    words = ('"level":"error"', "Error:")
    found = [f"{path}: {line[:600]}" for path, line in lines if any(w in line for w in words)]
    return "\n".join(found)


def processes_of(home: Path, port: int) -> list[str]:
    """Command lines and places of what still runs for that Airflow."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            variables = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"AIRFLOW_HOME={home}" in variables or (str(home) in line):
            found.append(line)
    return found
