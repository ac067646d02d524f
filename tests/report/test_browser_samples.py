"""One sample in a real browser, of a workspace that has gone through all stages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.config import ReportConfig
from pipeline.report.run import run
from tests.helpers.browser import Browser, Visit, browser, why_no_browser
from tests.helpers.whole_workspace import Whole, whole

__all__ = ["browser", "whole"]

pytestmark = pytest.mark.skipif(why_no_browser() is not None, reason=why_no_browser() or "")


def test_a_sample_shows_its_reconstruction_its_ids_as_text_and_its_shard(
    whole: Whole, browser: Browser, tmp_path: Path
) -> None:
    mine = whole.copy(tmp_path / "data")
    run(ReportConfig(workspace=mine.root))
    with browser.visit(mine.root / "report.html") as visit:
        visit.page.locator("#kept button.shot").first.click()
        images = visit.page.locator("dialog .group figure")
        assert images.locator("figcaption").all_text_contents()[0] == "original"
        assert re.match(
            r"reconstruction, PSNR \d+\.\d dB", images.locator("figcaption").all_text_contents()[1]
        )
        facts = facts_of(visit)
        assert facts["ids as text"].strip() == facts["caption"].lower()
        assert re.fullmatch(r"shards/default/(train|val)/\d{6}\.tar", facts["shard"])
        assert facts["came from"].startswith("http://dalleblog.localhost/")
        record: dict[str, Any] = json.loads(visit.page.locator("dialog pre").text_content() or "")
        assert record["shard"]["json"]["url"] == facts["came from"]
        assert visit.problems == []


def facts_of(visit: Visit) -> dict[str, str]:
    """The facts in the dialog by name."""
    names = visit.page.locator("dialog dt").all_text_contents()
    return dict(zip(names, visit.page.locator("dialog dd").all_text_contents(), strict=True))
