"""The page of one sample in a real browser, of a workspace that has gone through all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from pipeline.serve import sample_lookup
from pipeline.serve.config import ServeConfig
from pipeline.serve.server import BackgroundServer
from tests.helpers.browser import DESKTOP, PHONE, Browser, browser
from tests.helpers.dedupe import kept
from tests.helpers.whole_workspace import Whole, whole

__all__ = ["browser", "whole"]  # fixtures


def test_a_sample_with_its_reconstruction_is_clean(
    whole: Whole,
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample_lookup, "WAIT_S", 300.0)
    key = sorted(kept(Workspace(whole.root)))[0]
    options: dict[str, Any] = {"port": 0, "device": "cpu", "threads": 1, "index": tmp_path}
    with (
        BackgroundServer(ServeConfig(workspace=whole.root, **options)) as url,
        browser.visit(f"{url}sample/{key}", width=PHONE) as visit,
    ):
        image = visit.page.get_by_alt_text("Reconstruction from codes")
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        for width in (PHONE, DESKTOP):
            visit.look(width=width, dark=False)
            assert visit.violations() == []
            assert visit.overflow() == 0
        assert visit.problems == []
