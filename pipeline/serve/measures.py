"""What the server measures about itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_PREFIX = "dalle_pipeline_serve_"


class Measures:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def name(text: str) -> str:
            return _PREFIX + text

        self.requests = Counter(
            name("requests"), "Requests answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            name("request_seconds"), "Seconds until the answer.", ["route"], registry=registry
        )
        self.images = Counter(name("images"), "Images drawn.", registry=registry)
        self.batch = Histogram(
            name("batch_images"),
            "Images drawn at once, observed at each code.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.draw_seconds = Counter(
            name("draw_seconds"), "Seconds spent drawing.", registry=registry
        )
        self.refused = Counter(
            name("refused"), "Requests refused because the queue was full.", registry=registry
        )
        self.abandoned = Counter(
            name("abandoned"), "Requests whose client left before the answer.", registry=registry
        )
        self.thumbnails = Counter(
            name("thumbnails"), "Thumbnails by where they came from.", ["from"], registry=registry
        )

    def watch(self, text: str, about: str, read: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(_PREFIX + text, about, registry=self._registry).set_function(read)

    def add_step(self, images: int, finished: int, seconds: float) -> None:
        """Count a code of the `images` in the batch; called from the drawing thread."""
        self.images.inc(finished)
        self.batch.observe(images)
        self.draw_seconds.inc(seconds)

    def text(self) -> bytes:
        """The metrics in the text format 0.0.4."""
        return generate_latest(self._registry)
