"""The ledger as parquet, and lists of addresses."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.core.contracts import LEDGER_ITEMS
from pipeline.core.errors import ContractError
from pipeline.core.workspace import Workspace
from scrapers.crawl.export import (
    discover_kept,
    export_ledger,
    list_urls,
    write_url_lines,
    write_url_table,
)
from scrapers.scrape import scrape
from scrapers.source import CaptionForm, CaptionPlan, Discovery
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import PlainSource, Server, stored


def test_the_ledger_is_exported_row_by_row(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    scrape(quick, source=PlainSource(server.url, captions=2))
    out = tmp_path / "ledger.parquet"
    assert export_ledger(Workspace(quick.workspace), out) == 8
    table = pq.read_table(out)
    assert table.column_names == [column.name for column in LEDGER_ITEMS]
    assert set(table["url"].to_pylist()) == set(stored(quick.workspace))
    assert table["key"].to_pylist() == sorted(table["key"].to_pylist())
    first = out.read_bytes()
    export_ledger(Workspace(quick.workspace), out)
    assert out.read_bytes() == first


def test_no_ledger_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="Run `pipeline scrape` first"):
        export_ledger(Workspace(tmp_path), tmp_path / "x.parquet")


def test_addresses_are_listed_without_a_request(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    discovery = discover_kept(quick, source=PlainSource(server.url, captions=2, ranks=2))
    stream = io.StringIO()
    assert write_url_lines(discovery, stream) == 4
    first = stream.getvalue().splitlines()[1].split("\t")
    assert first == ["things", "caption 0", "1", f"{server.url}/samples/things/c0_1.png"]
    assert write_url_table(discovery, tmp_path / "urls.parquet") == 4
    assert pq.read_table(tmp_path / "urls.parquet")["rank"].to_pylist() == [0, 1, 0, 1]
    assert server.asked == []


def test_without_a_fetched_page_what_is_built_in_is_listed_and_said_so(
    quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    source = PlainSource(
        "http://example.org", start_url="http://example.org/page", captions=2, ranks=2
    )
    assert len(list(list_urls(discover_kept(quick, source=source)))) == 4
    assert "--page FILE" in caplog.text


def test_the_stage_lists_and_exports_without_a_request(
    server: Server, quick: DalleBlogConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = PlainSource(server.url, captions=2)
    report = scrape(replace(quick, list_urls=True), source=source)
    assert (report.counts["urls"], len(capsys.readouterr().out.splitlines())) == (8, 8)
    scrape(replace(quick, list_urls=True, out=tmp_path / "urls.parquet"), source=source)
    assert pq.read_table(tmp_path / "urls.parquet").num_rows == 8
    assert server.asked == []
    scrape(quick, source=source)
    asked = len(server.asked)
    report = scrape(replace(quick, export=tmp_path / "ledger.parquet"))
    assert report.outputs == (str(tmp_path / "ledger.parquet"),)
    assert len(server.asked) == asked


@pytest.mark.parametrize("listing", [False, True], ids=["crawled", "listed"])
def test_differences_are_counted_in_one_warning_and_told_in_the_report(
    listing: bool, server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    differences = tuple(f"The page lacks '{number}'." for number in range(250))
    source = PlainSource(server.url, captions=1, differences=differences)
    config = replace(quick, list_urls=listing)
    report = scrape(config, source=source)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Parts of the page could not be used: 250 problems, the first: The page lacks '0'. "
        "The report has more (--json)."
    ]
    assert report.details["num_differences"] == 250
    assert report.details["differences"] == list(differences[:200])
    caplog.clear()
    again = scrape(config, source=source)
    assert again.details["num_differences"] == 250
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (1 if listing else 0)  # Known by now; a listing leaves nothing behind.


def test_control_characters_never_reach_the_terminal() -> None:
    form = CaptionForm(
        caption="a \x1b[31mred\x1b[0m\tcat\n\u202e", url_template="http://a.test/c_{rank}.png"
    )
    plan = CaptionPlan(section="th\x07ings", forms=(form,), ranks=(0,), masked=False)
    discovery = Discovery(plans=(plan,), num_captions=1, num_urls=1, sections=(), differences=())
    stream = io.StringIO()
    assert write_url_lines(discovery, stream) == 1
    assert stream.getvalue() == (
        "th\\x07ings\ta \\x1b[31mred\\x1b[0m\\tcat\\n\\u202e\t0\thttp://a.test/c_0.png\n"
    )


def test_only_new_losses_are_warned_of(
    server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings(*sentences: str, refresh: bool = True) -> list[str]:
        caplog.clear()
        source = PlainSource(server.url, captions=1, differences=sentences)
        scrape(replace(quick, refresh=refresh), source=source)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert len(warnings("The page lacks 'a'.", "The page lacks 'b'.", refresh=False)) == 1
    assert warnings("The page lacks 'b'.") == []
    assert len(warnings("The page lacks 'b'.", "The page lacks 'c'.")) == 1
    (quick.workspace / "raw" / "differences.json").write_bytes(b"{")
    assert len(warnings("The page lacks 'b'.")) == 1
    assert warnings("The page lacks 'b'.") == []
