"""Each signal has its line of documentation, and evidence can always be kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from scrapers.fetch.optouts import signals
from scrapers.fetch.optouts.signals import SIGNALS, Refusal
from scrapers.fetch.sniff import Flaw

DOCS = (Path(__file__).parents[4] / "docs" / "scraping.md").read_text()


@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_is_documented_with_its_specification(name: str) -> None:
    assert signals.__doc__ is not None
    assert re.search(rf"^ *{re.escape(name)} +\S", signals.__doc__, flags=re.MULTILINE)
    (row,) = [line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |")]
    assert all(cell.strip() for cell in row.strip("|").split("|"))


@pytest.mark.parametrize("flaw", get_args(Flaw))
def test_each_flaw_is_documented(flaw: str) -> None:
    assert f"| `{flaw}` |" in DOCS


def test_evidence_is_ascii_json_and_bounded() -> None:
    refusal = Refusal(
        signal="x-robots-tag", reason="x", where="http://a/\ud800", text="\udce9\0" * 900
    )
    text = refusal.evidence("2026-01-31T12:00:00Z")
    assert text.isascii()
    found = json.loads(text)
    assert (found["when"], len(found["text"])) == ("2026-01-31T12:00:00Z", 500)
    assert found["where"] == "http://a/\ud800"
