"""Images resized on Ray: the same rows and bytes as on this machine, also where a file kills the decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from scrapers.sources.urls.config import UrlsConfig
from tests.helpers.crawls import Server, stored
from tests.scrapers.resizing.test_resizing import (
    BIG,
    BROKEN,
    SMALL,
    assert_whole,
    config,
    crash_on_broken,
    rows,
    run,
)

__all__ = ["config"]


def without_server(root: Path) -> dict[str, bytes]:
    return {"/" + url.split("/", 3)[3]: body for url, body in stored(root).items()}


@pytest.mark.slow
def test_the_same_rows_and_bytes_on_ray(
    server: Server, config: UrlsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr("scrapers.resizing.workers.resize_image", crash_on_broken)
    paths = (BIG, SMALL, BROKEN, *(f"/{number}.png" for number in range(20)))
    here = run(config, server, *paths)
    on_ray = replace(config, workspace=tmp_path / "ray", engine="ray")
    there = run(on_ray, server, *paths)
    assert there.counts == here.counts
    assert there.details["resized"] == here.details["resized"] == 21
    assert rows(on_ray.workspace) == rows(config.workspace)
    assert rows(on_ray.workspace)[BROKEN][:2] == ("done", "not_resized")
    assert without_server(on_ray.workspace) == without_server(config.workspace)
    assert_whole(on_ray.workspace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "ray", "max_side": None}, "--engine ray resizes images on a cluster"),
        ({"ray_address": "auto", "max_side": 32}, "--ray-address needs --engine ray"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UrlsConfig(source="urls", **options)
