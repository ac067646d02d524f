"""What `pipeline run --dry-run` says of scrape."""

from __future__ import annotations

from pipeline.core.contracts import Manifest
from scrapers.config import ScrapeConfig
from scrapers.scrape import find_finished
from scrapers.source import reads_files


def why_run(config: ScrapeConfig, manifest: Manifest) -> str | None:
    """Why a finished crawl with these options has more to do; None if it has not."""
    if config.refresh:
        return "--refresh: everything is requested again"
    if config.update:
        return "--update: the page is requested again"
    if reads_files(config):
        return "its files may have changed"
    if find_finished(config) is not None:
        return None
    waiting, failed = manifest.counts.get("pending", 0), _failed(manifest)
    if config.retry_failed and failed:
        return f"{failed:,} URLs failed and are requested again"
    if waiting:
        return f"{waiting:,} URLs are pending"
    if failed:
        return f"{failed:,} URLs failed: the plan is checked, but only pending URLs are requested"
    return "the page, the captions or the files of the raw store have changed"


def _failed(manifest: Manifest) -> int:
    states = ("failed", "truncated", "not_an_image")
    return sum(manifest.counts.get(state, 0) for state in states)
