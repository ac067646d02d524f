"""The source `img2dataset`: its images where they are, and its failures as rows that can be retried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.storage import sha256_bytes
from scrapers.sources.img2dataset.failures import read_failure
from tests.helpers.crawls import Ask, Server, answer
from tests.helpers.kept_workspace import make_png
from tests.scrapers.local.folders import differences, rows, scrape_source
from tests.scrapers.local.stages import Stages
from tests.scrapers.sources.img2dataset.outputs import Format, Tried, make_jpeg, write_output

FORMATS = get_args(Format)
SITE = "http://images.example"
TRIED = [
    *(Tried(f"{SITE}/{n}.png", n) for n in range(7)),
    Tried(f"{SITE}/gone.png", error="HTTP Error 404: Not Found", caption="gone"),
    Tried(f"{SITE}/slow.png", error="timed out", caption="slow"),
    Tried(f"{SITE}/no.png", error="Image decoding error", caption="no"),
    Tried("/x", error="unknown url type: '/x'", caption="no url"),
    Tried(
        f"{SITE}/out.png", error="Use of image disallowed by X-Robots-Tag directive", caption="out"
    ),
]


@pytest.fixture(params=FORMATS)
def output(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The same rows in each of the formats."""
    return write_output(tmp_path / "laion", TRIED, request.param)


def test_every_row_comes_with_its_image_or_its_reason(output: Path, tmp_path: Path) -> None:
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    found = rows(tmp_path / "w")
    assert {
        name: (row.state, row.reason) for name, row in found.items() if row.state != "done"
    } == {
        "gone.png": ("missing", "http_404"),
        "slow.png": ("failed", "timeout"),
        "no.png": ("not_an_image", "unknown_format"),
        "x": ("failed", "bad_url"),
        "out.png": ("opted_out", "x_robots_tag"),
    }
    assert (report.counts["urls"], report.counts["done"]) == (12, 7)
    row = found["3.png"]
    assert (row.url, row.section, row.caption) == (f"{SITE}/3.png", "laion", "a disc of kind 3")
    assert row.sha256 == sha256_bytes(make_jpeg(3))
    extra = row.extra or {}
    assert extra["sha256"] == sha256_bytes(make_png(3))  # of the bytes as downloaded
    assert (extra["id"], extra["original_width"]) == (3, 64)


def test_what_is_known_is_not_read_again(output: Path, tmp_path: Path) -> None:
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    before = rows(tmp_path / "w")
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert (report.details["stored"], report.details["failures"]) == (0, {})
    assert rows(tmp_path / "w") == before


def test_a_renamed_folder_keeps_its_keys(output: Path, tmp_path: Path) -> None:
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    before = rows(tmp_path / "w")
    moved = output.rename(tmp_path / "coyo")
    report = scrape_source("img2dataset", moved, workspace=tmp_path / "w")
    after = rows(tmp_path / "w")
    assert {name: row.key for name, row in after.items()} == {n: r.key for n, r in before.items()}
    assert report.details["stored"] == 0
    assert {row.section for row in after.values()} == {"coyo"}


async def later(ask: Ask) -> bytes:
    """Everything that failed before is there now."""
    return answer(make_png(30 + len(ask.path)))


def test_retry_failed_asks_exactly_the_failed_ones(server: Server, tmp_path: Path) -> None:
    server.behaviour = later
    tried = [
        Tried(f"{server.url}/a.png", 1),
        Tried(f"{server.url}/slow.png", error="timed out", caption="slow"),
        Tried(f"{server.url}/gone.png", error="HTTP Error 404: Not Found", caption="gone"),
        Tried(f"{server.url}/out.png", error="Use of image disallowed by X-Robots-Tag directive"),
        Tried(f"{server.url}/broken.png", error="Image decoding error", caption="broken"),
        Tried("/x", error="unknown url type: '/x'", caption="no url"),
    ]
    output = write_output(tmp_path / "out", tried, "webdataset")
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    keys = {name: row.key for name, row in rows(tmp_path / "w").items()}
    assert not server.hits
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w", retry_failed=True)
    assert {path for path in server.hits if path.endswith(".png")} == {"/slow.png", "/broken.png"}
    found = rows(tmp_path / "w")
    assert (found["slow.png"].state, found["slow.png"].caption) == ("done", "slow")
    assert found["slow.png"].segment == "00000.tar"
    assert {name: row.key for name, row in found.items()} == keys
    assert report.counts["done"] == 3
    # What came over the network stays, whatever the folder says.
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert rows(tmp_path / "w") == found


def test_an_unfinished_shard_is_named_and_left_out(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", TRIED, "webdataset", finished=False)
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert (
        "Unfinished shards, which are left out (1): 00002 (there is no 00002_stats.json)."
        in differences(report)
    )
    assert report.counts["urls"] == 10


def test_one_url_in_several_rows_is_one_image_with_all_captions(tmp_path: Path) -> None:
    tried = [
        Tried(f"{SITE}/a.png", error="timed out", caption="failed at first"),
        Tried(f"{SITE}/a.png", 1, caption="one"),
        *(Tried(f"{SITE}/{n}.png", n) for n in range(2, 6)),
        Tried(f"{SITE}/a.png", 9, caption="two"),
        Tried(f"{SITE}/a.png", error="timed out", caption="three"),
    ]
    output = write_output(tmp_path / "out", tried, "webdataset", per_shard=3)
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    row = rows(tmp_path / "w")["a.png"]
    assert (row.state, row.sha256) == ("done", sha256_bytes(make_jpeg(1)))
    assert row.captions == ("failed at first", "one", "three", "two")
    assert report.details["repeated_captions"] == 2
    before = rows(tmp_path / "w")
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert rows(tmp_path / "w") == before


def test_an_image_that_its_shard_lacks_can_be_fetched(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", TRIED, "files")
    (output / "00000" / "000000002.jpg").unlink()
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    row = rows(tmp_path / "w")["2.png"]
    assert (row.state, row.reason) == ("failed", "lost_in_shard")


def test_a_tar_that_ends_early_is_named(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", TRIED, "webdataset")
    tar = output / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:6000])
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert f"Tars that end early (1): {tar}" in differences(report)
    assert rows(tmp_path / "w")["0.png"].state == "done"
    assert rows(tmp_path / "w")["4.png"].reason == "lost_in_shard"


def test_a_damaged_table_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", TRIED, "webdataset")
    (output / "00001.parquet").write_bytes(b"PAR1")
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert "Shards that can't be read (1): 00001.parquet" in differences(report)
    assert report.counts["urls"] == 7


def test_rows_without_a_caption_are_counted(tmp_path: Path) -> None:
    tried = [Tried(f"{SITE}/1.png", 1, caption=""), Tried(f"{SITE}/2.png", 2)]
    output = write_output(tmp_path / "out", tried, "files")
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert "Rows without a caption (1): 00000/000000000." in differences(report)


def test_a_column_that_is_not_there_shows_those_that_are(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", TRIED, "files")
    with pytest.raises(
        SourceError, match="no column 'alt' for the captions but id, caption, url, key"
    ):
        scrape_source("img2dataset", output, workspace=tmp_path / "w", captions_from="alt")


def test_numbers_that_are_none_are_null_in_extra(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", TRIED[:1], "files")
    table = pq.read_table(output / "00000.parquet")
    pq.write_table(table.append_column("score", [[float("nan")]]), output / "00000.parquet")
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    assert json.loads(json.dumps(rows(tmp_path / "w")["0.png"].extra))["score"] is None


@pytest.mark.parametrize("inputs", [(), ("nowhere",), (".", ".")])
def test_exactly_one_folder_is_read(tmp_path: Path, inputs: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="reads one output folder"):
        scrape_source("img2dataset", *inputs, workspace=tmp_path / "w")


@pytest.mark.parametrize(
    ("message", "state", "reason"),
    [
        ("HTTP Error 403: Forbidden", "failed", "http_403"),
        ("HTTP Error 410: Gone", "missing", "http_410"),
        ("<urlopen error [Errno 111] Connection refused>", "failed", "refused"),
        ("<urlopen error [Errno -2] Name or service not known>", "failed", "name_not_found"),
        ("<urlopen error timed out>", "failed", "timeout"),
        ("IncompleteRead(28409 bytes read, 28409 more expected)", "truncated", "truncated"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] …>", "failed", "tls"),
        ("hash mismatch", "failed", "hash_mismatch"),
        ("image too small", "failed", "image_too_small"),
        ("something else", "failed", "img2dataset"),
        (None, "failed", "img2dataset"),
    ],
)
def test_messages_are_read_as_our_reasons(message: str | None, state: str, reason: str) -> None:
    assert read_failure(message)[:2] == (state, reason)


@pytest.mark.parametrize("form", FORMATS)
def test_an_output_goes_through_all_stages(tmp_path: Path, form: Format) -> None:
    tried = [*(Tried(f"{SITE}/{n}.png", n) for n in range(24)), *TRIED[7:]]
    output = write_output(tmp_path / "out", tried, form, per_shard=10)
    stages = Stages(tmp_path / "w")
    stages.scrape("img2dataset", output)
    for stage in ("dedupe", "train-tokenizer", "train-codec", "encode", "shard"):
        result = stages.call(stage)
        assert result.exit_code == 0, result.output
    members = stages.members()
    assert {data for name, data in members.items() if name.endswith(".jpg")} == {
        make_jpeg(n) for n in range(24)
    }
    assert stages.call("verify").exit_code == 0
