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
from typing import TYPE_CHECKING, Any

from pipeline.app.run_log import cpu_seconds
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import Metric

HOST = "127.0.0.1"
_PREFIX = "dalle_pipeline_"
_HELP: Mapping[str, str] = {
    "running": "1 while the stage runs, 0 when it has ended.",
    "items_done": "Items that are done (images, URLs, steps).",
    "items_total": "Items in total, as far as known.",
    "seconds": "Seconds since the stage began.",
    "note": "Notes of the stage beside its progress: failures by reason, a loss.",
    "count": "Counts of the stage at its end, as in its manifest.",
}
_BY_NAME = frozenset({"note", "count"})


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


@dataclass(kw_only=True, eq=False)
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
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        """The metrics that have a value, as `prometheus_client` asks for them."""
        from prometheus_client.core import GaugeMetricFamily

        rows = [(stage_metrics.stage, stage_metrics.numbers()) for stage_metrics in self.stages]
        for name, text in _HELP.items():
            labels = ("stage", "name") if name in _BY_NAME else ("stage",)
            family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
            for stage, numbers in rows:
                for further, number in _values(numbers[name]):
                    family.add_metric((stage, *further), number)
            if family.samples:
                yield family
        yield GaugeMetricFamily(
            f"{_PREFIX}cpu_seconds", "CPU time of the whole command so far.", value=cpu_seconds()
        )


def _values(value: Any) -> list[tuple[tuple[str, ...], float]]:
    """The values of a metric with the names that distinguish them, if it has several."""
    if isinstance(value, dict):
        return [((name,), number) for name, number in value.items()]
    return [] if value is None else [((), value)]


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
