"""Metrics: served to Prometheus while a stage runs, with the same numbers in its report."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.app.metrics import Metrics, serve_metrics
from pipeline.core.config import StageConfig
from pipeline.core.contracts import StageReport
from pipeline.core.progress import Progress
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name, stage and name of a note, as Prometheus' own parser reads them."""
    return {
        (
            sample.name,
            *(sample.labels[k] for k in ("stage", "name") if k in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_the_metrics_of_a_stage() -> None:
    metrics = Metrics()
    meter = metrics.begin("scrape")
    meter(3, None)
    assert ("dalle_pipeline_items_total", "scrape") not in samples(metrics.exposition())
    meter(5, 10, {"http_404": 2, 'a "reason"\\\n': 1, "text": "left out"})
    found = samples(metrics.exposition())
    assert found["dalle_pipeline_items_done", "scrape"] == 5
    assert found["dalle_pipeline_items_total", "scrape"] == 10
    assert found["dalle_pipeline_note", "scrape", "http_404"] == 2
    assert found["dalle_pipeline_note", "scrape", 'a "reason"\\\n'] == 1
    assert found["dalle_pipeline_running", "scrape"] == 1
    assert found[("dalle_pipeline_cpu_seconds",)] > 0
    meter.end(StageReport(stage="scrape", outcome="done", counts={"done": 8}))
    found = samples(metrics.exposition())
    assert found["dalle_pipeline_running", "scrape"] == 0
    assert found["dalle_pipeline_count", "scrape", "done"] == 8


def test_it_is_served_only_during_the_block_and_only_locally() -> None:
    with serve_metrics(Metrics(), 0) as port:
        address = f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(address + "metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address + "metrics", timeout=2)


@pytest.mark.parametrize("command", ["scrape", "encode", "train"])
def test_a_command_serves_the_numbers_that_its_report_has(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, ...], float] = {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        progress(7, 9, {"loss": 0.5})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            seen.update(samples(answer.read().decode()))
        return StageReport(stage=command, outcome="done", counts={"images": 9})

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    arguments = [command, "--workspace", str(root), "--json", "--metrics-port", str(port)]
    result = run_command(arguments)
    assert result.exit_code == 0, result.output
    assert f":{port}/metrics" in result.stderr
    numbers: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])["details"]["metrics"]
    assert seen["dalle_pipeline_items_done", command] == numbers["items_done"] == 7
    assert seen["dalle_pipeline_items_total", command] == numbers["items_total"] == 9
    assert seen["dalle_pipeline_note", command, "loss"] == numbers["note"]["loss"] == 0.5
    assert numbers["count"] == {"images": 9}


def test_a_taken_port_is_a_usage_error(tmp_path: Path) -> None:
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["dedupe", "--workspace", str(root), "--metrics-port", port]
        result = run_command(arguments)
    assert result.exit_code == 2
    assert re.search(rf"--metrics-port {port} can't be used", result.output)
