"""Metrics of running stages, for Prometheus and for the JSON reports.

Fed by the same progress calls as the bar, so stages need not know about it. The text format is version 0.0.4
of https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.app.run_log import cpu_seconds
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError

HOST = "127.0.0.1"
_PREFIX = "dalle_pipeline_"
_HELP: Mapping[str, str] = {
    "running": "1 while the stage runs, 0 when it has ended.",
    "items_done": "Items that are done (images, URLs, steps).",
    "items_total": "Items in total, as far as known.",
    "seconds": "Seconds since the stage began.",
    "note": "Notes of the stage beside its progress: failures by reason, a loss.",
    "count": "Counts of the stage at its end, as in its manifest.",
    "cpu_seconds": "CPU time of the whole command so far.",
}


@dataclass(kw_only=True)
class StageMetrics:
    """The metrics of one stage; a progress callback like any other."""

    stage: str
    done: int = 0
    total: int | None = None
    notes: dict[str, int | float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    _begun_s: float = field(default_factory=time.monotonic)

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        """Record progress."""
        self.done, self.total = done, total
        # One assignment: another thread reads them.
        self.notes = {k: v for k, v in (notes or {}).items() if isinstance(v, (int, float))}

    def end(self, report: StageReport) -> None:
        """Record the report of the finished stage."""
        self.seconds = time.monotonic() - self._begun_s
        self.counts = dict(report.counts)

    def numbers(self) -> dict[str, Any]:
        """The metrics as JSON values, under their Prometheus names."""
        now_s = time.monotonic() - self._begun_s
        return {
            "running": int(self.seconds is None),
            "items_done": self.done,
            "items_total": self.total,
            "seconds": round(now_s if self.seconds is None else self.seconds, 3),
            "note": self.notes,
            "count": self.counts,
        }


@dataclass(kw_only=True)
class Metrics:
    """The metrics of a command, by stage."""

    stages: list[StageMetrics] = field(default_factory=list)

    def begin(self, stage: str) -> StageMetrics:
        """Start the metrics of a stage."""
        stage_metrics = StageMetrics(stage=stage)
        self.stages = [*(m for m in self.stages if m.stage != stage), stage_metrics]
        return stage_metrics

    def exposition(self) -> str:
        """The text that Prometheus reads."""
        samples: dict[str, list[str]] = {name: [] for name in _HELP}
        for stage_metrics in self.stages:
            for name, value in stage_metrics.numbers().items():
                samples[name] += _samples(name, stage_metrics.stage, value)
        samples["cpu_seconds"] = [f"{_PREFIX}cpu_seconds {cpu_seconds():.3f}"]
        return "".join(
            f"# HELP {_PREFIX}{name} {_HELP[name]}\n# TYPE {_PREFIX}{name} gauge\n"
            + "".join(f"{line}\n" for line in lines)
            for name, lines in samples.items()
            if lines
        )


def _samples(name: str, stage: str, value: Any) -> list[str]:
    labels = f'stage="{_escape(stage)}"'
    if isinstance(value, dict):
        return [
            f'{_PREFIX}{name}{{{labels},name="{_escape(key)}"}} {number}'
            for key, number in value.items()
        ]
    return [] if value is None else [f"{_PREFIX}{name}{{{labels}}} {value}"]


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@contextlib.contextmanager
def serve_metrics(metrics: Metrics, port: int | None) -> Iterator[int | None]:
    """Serve metrics on this port of 127.0.0.1 (0: any free one) while the block runs; yields the port.

    Without a port nothing is served. Raises ConfigError if the port is taken.
    """
    if port is None:
        yield None
        return
    from http.server import ThreadingHTTPServer

    try:
        server = ThreadingHTTPServer((HOST, port), _handler(metrics))
    except OSError as error:
        raise ConfigError(
            f"--metrics-port {port} can't be used: {error.strerror}. Give another one."
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _handler(metrics: Metrics) -> Any:
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.partition("?")[0] == "/metrics"
            body = metrics.exposition().encode() if known else b"See /metrics.\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Log nothing: scrapes are no events."""

    return Handler
