"""The scrape against the replica: every fault alone and all of them mixed."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.replica.config import FaultPlan, ReplicaConfig
from pipeline.demo.replica.server import Replica
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import stored

PASSING = (
    "slow", "truncated", "cut_short", "busy", "busy_until", "error", "unavailable", "html", "reset",
    "silent", "redirected", "redirect_loop", "gzip_bomb", "slow_loris", "huge",
)  # fmt: skip


def fetch(tmp_path: Path, limit: int, **shares: Any) -> tuple[Replica, Any, dict[str, bytes]]:
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    short: dict[str, Any] = {"slow_s": 0.02, "hang_s": 1, "drip_s": 0.2, "retry_after_s": 0}
    faults = FaultPlan(seed=5, **short, **shares)
    with Replica(ReplicaConfig(size=16, faults=faults)) as replica:
        config = DalleBlogConfig(
            workspace=tmp_path,
            page_url=replica.page_url,
            cdn_url=replica.cdn,
            limit=limit,
            timeout_s=3,
            backoff_s=0.02,
            max_backoff_s=0.5,
        )
        report = scrape(config)
        found = stored(tmp_path)
        again = scrape(replace(config))
        assert again.outcome == ("unchanged" if report.outcome != "incomplete" else "incomplete")
    return replica, report, found


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_loses_no_image(kind: str, tmp_path: Path) -> None:
    slow = ("busy_until", "silent", "slow_loris", "huge", "gzip_bomb")
    share = 0.05 if kind in slow else 0.3
    replica, report, found = fetch(tmp_path, 3, **{kind: share})
    assert report.outcome == "done"
    assert len(found) == report.counts["done"] == 96
    assert all(replica.true_bytes(url) == body for url, body in found.items())


def test_damaged_images_are_stored_as_served(tmp_path: Path) -> None:
    replica, report, found = fetch(tmp_path, 3, corrupt=0.4)
    assert report.counts["done"] == 96
    damaged = [url for url, body in found.items() if replica.true_bytes(url) != body]
    assert 10 < len(damaged) < 70


@pytest.mark.slow
def test_all_faults_mixed_lose_no_image(tmp_path: Path) -> None:
    replica, report, found = fetch(tmp_path, 30, **dict.fromkeys(PASSING, 0.2 / len(PASSING)))
    assert report.outcome == "done"
    assert len(found) == 960
    hashes = {hashlib.sha256(body).digest() for body in found.values()}
    assert len(hashes) > 900
    assert all(replica.true_bytes(url) == body for url, body in found.items())
